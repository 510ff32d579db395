#!/bin/sh
# sh recipes/route_two_models.sh SMALL BIG PROMPTS.jsonl
#
# Make a router between two models of the registry: both answer the prompts, the answers are
# compared with the ones in the file ({"prompt": "...", "answer": "..."} a line), the router is
# trained on who was right, its threshold is set, and a page with its figures is written. Stopped
# and run again, labelling goes on where it was.
#
# NAME=two             what the router is called
# SHARE=30%            so many prompts go to BIG
# LABELS=two.jsonl     where who was right is kept
# REPORT=two.html      where the page goes
# TOKENS=256           an answer is cut off there
# AT_ONCE=4            answers computed together
set -eu

small=$1 big=$2 prompts=$3
name=${NAME:-two}

localllm route show "$name" >/dev/null 2>&1 ||
  localllm route create "$name" --member "small=$small" --member "big=$big"
localllm route label "$name" --prompts "$prompts" --out "${LABELS:-$name.jsonl}" \
  --max-tokens "${TOKENS:-256}" --at-once "${AT_ONCE:-4}"
localllm route train "$name" --data "${LABELS:-$name.jsonl}"
localllm route calibrate "$name" --strong-share "${SHARE:-30%}"
localllm route eval "$name" --no-plot --report "${REPORT:-$name.html}"
localllm route show "$name" --json
