#!/bin/sh
# sh recipes/bench_ladder.sh REF TYPE...
#
# Pull a model, make it in each TYPE, bench them all, and write one page with plots of speed and
# memory over the whole ladder. Run again, models that are there are reused.
#
#   sh recipes/bench_ladder.sh hf:ggml-org/gemma-3-270m-it-GGUF:F16 Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0
#
# REPORT=ladder.html     where the page goes; it is one file and needs no network
# P, N, D, R             prompt tokens, generated tokens, depths, repetitions (512, 128, 0, 5)
# REQUANTIZE=1           allow a source that is quantized already (it loses quality)
# LOAD=1 BATCHED=8       also load times; also 1, 2, 4 ... 8 sequences at once
set -eu

field() { # a JSON document on stdin -> the value at the path of keys given
  python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[key]
print(value)' "$@"
}

ref=$1
shift
report=${REPORT:-ladder.html}

model=$(localllm pull "$ref" --json | field data model name)
models=$model
for type in "$@"; do
  made=$(localllm quantize "$model" "$type" ${REQUANTIZE:+--allow-requantize} --json | field data model name)
  models="$models
$made"
done

# names may hold any character but a newline
echo "$models" | tr '\n' '\0' |
  xargs -0 localllm bench -p "${P:-512}" -n "${N:-128}" -d "${D:-0}" -r "${R:-5}" \
    ${LOAD:+--load} ${BATCHED:+--batched "$BATCHED"} --tag ladder --report "$report" --
echo "$report"
