#!/bin/sh
# sh recipes/nightly_bench.sh MODEL...
#
# Bench models of the registry and add the figures to their history; the page with every test's
# trend is written anew. Each night the same tests: what changes is the machine, its driver or this program.
#
# FOLDER=~/localllm-nightly   where history.html and last.json go
# BENCH="-p 512 -n 128 -r 5"  the tests; all nights of one trend need the same
#
# Every night at half past three, by cron (crontab -e):
#
#   30 3 * * * sh /path/to/recipes/nightly_bench.sh gemma3-270m:Q4_0 2>>~/nightly.log
#
# or by systemd, in ~/.config/systemd/user/nightly-bench.service
#
#   [Service]
#   Type=oneshot
#   ExecStart=/bin/sh /path/to/recipes/nightly_bench.sh gemma3-270m:Q4_0
#
# and nightly-bench.timer (then systemctl --user enable --now nightly-bench.timer)
#
#   [Timer]
#   OnCalendar=*-*-* 03:30
#   Persistent=true
#   [Install]
#   WantedBy=timers.target
set -eu

folder=${FOLDER:-$HOME/localllm-nightly}
mkdir -p "$folder"
# One night still at work must not be measured by the next one.
if ! mkdir "$folder/running" 2>/dev/null; then
  echo "another run is at work, or was killed: rmdir $folder/running" >&2
  exit 1
fi
trap 'rmdir "$folder/running"' EXIT
trap 'exit 130' INT TERM

status=0
# a row that fails is kept with its reason, and the trend is written all the same
# shellcheck disable=SC2086  # BENCH is several words
localllm bench ${BENCH:--p 512 -n 128 -r 5} --tag nightly --json --progress none -- "$@" \
  >"$folder/last.json.tmp" || status=$?
mv "$folder/last.json.tmp" "$folder/last.json"
localllm bench history --report "$folder/history.html"
exit $status
