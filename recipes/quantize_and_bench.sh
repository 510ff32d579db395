#!/bin/sh
# sh recipes/quantize_and_bench.sh REF TYPE...
#
# Pull a model, make it in each TYPE, bench them all, and print one JSON line a model: name, size,
# prompt processing and token generation speed. Run again, everything that is there is reused.
#
#   sh recipes/quantize_and_bench.sh hf:ggml-org/gemma-3-270m-it-GGUF:F16 Q8_0 Q5_K_M Q4_0
#
# REQUANTIZE=1   allow a source that is quantized already (it loses quality)
# P, N, R        prompt tokens, generated tokens, repetitions (256, 64, 3)
set -eu

field() { # a JSON document on stdin -> the value at the path of keys given
  python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[key]
print(value)' "$@"
}

ref=$1
shift

# --json prints one document, also when a command fails; set -e ends the script then.
model=$(localllm pull "$ref" --json | field data model name)
models=$model
for type in "$@"; do
  made=$(localllm quantize "$model" "$type" ${REQUANTIZE:+--allow-requantize} --json | field data model name)
  models="$models
$made"
done

# names may hold any character but a newline
echo "$models" | tr '\n' '\0' |
  xargs -0 localllm bench -p "${P:-256}" -n "${N:-64}" -r "${R:-3}" --json |
  python3 -c 'import json, sys
for run in json.load(sys.stdin)["data"]:
    rates = {row["test"]: round(row["avg_ts"], 2) for row in run["rows"]}
    print(json.dumps({"model": run["model"], "size_bytes": run["rows"][0]["model_size"], **rates}))'
