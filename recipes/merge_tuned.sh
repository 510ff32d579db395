#!/bin/sh
# sh recipes/merge_tuned.sh BASE ADAPTER [HELD_OUT.txt]
# A tuning merged into its model in the smallest type that keeps it, checked on held-out text, and
# its size and survival as one line of JSON. Exit 5 where no type keeps it.
set -eu
base=$1
adapter=$2
shift 2
if [ $# -gt 0 ]; then set -- --text "$1"; else set -- --no-loss; fi
localllm merge "$base" --lora "$adapter" "$@" --json | python3 -c '
import json, sys
data = json.load(sys.stdin)["data"]
print(json.dumps({"model": data["name"], "type": data["type"], "size_bytes": data["file_bytes"],
                  "kept": data["survival"]["share"], "loss": data["loss"]}))'
