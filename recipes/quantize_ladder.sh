#!/bin/sh
# sh recipes/quantize_ladder.sh REF [TYPE...]
#
# Pull a model, quantize it to each TYPE (or to a sensible set), measure quality and speed of each,
# write one page with plots of quality against size, and print the model to take on this machine.
# Stopped and run again it goes on where it was. Safetensors are converted to a GGUF first.
#
#   sh recipes/quantize_ladder.sh hf:ggml-org/gemma-3-270m-it-GGUF:F16 Q8_0 Q5_K_M Q4_K_M IQ3_XXS
#
# REPORT=ladder.html   where the page goes; it is one file and needs no network
# CHUNKS=40            judge by the first so many contexts of the text; all without it
# TEXT=FILE            judge by this text, of the kind that the model is for
# CTX=8192             the context that must fit in memory
# KEEP=best            leave the chosen model alone on the disk (all)
# IMATRIX=none         no importance matrix; or a FILE (auto: made once, and kept)
# REQUANTIZE=1         allow a source that is quantized already (it loses quality)
set -eu

field() { # a JSON document on stdin -> the value at the path of keys given
  python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[key]
print(value)' "$@"
}

ref=$1
shift

pulled=$(localllm pull "$ref" --json)
model=$(echo "$pulled" | field data model name)
if [ "$(echo "$pulled" | field data model format)" = safetensors ]; then
  model=$(localllm convert "$model" --json | field data model name)
fi

# Exit status 4 where nothing fits; rungs that fail are rows of the page, and the rest goes on.
climbed=$(localllm quantize "$model" "$@" --ladder --require-fit --imatrix "${IMATRIX:-auto}" \
  --keep "${KEEP:-all}" --report "${REPORT:-ladder.html}" ${CHUNKS:+--measure-chunks "$CHUNKS"} \
  ${TEXT:+--measure-text "$TEXT"} ${CTX:+--ctx "$CTX"} ${REQUANTIZE:+--allow-requantize} --json) || {
  status=$?
  echo "$climbed" | field error message >&2
  exit "$status"
}
echo "$climbed" | field data recommended model
