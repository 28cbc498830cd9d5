#!/usr/bin/env bash
# step.sh "what happens" command…: says what happens and how long it took.
set -uo pipefail
title=$1; shift
printf '\033[1m==>\033[0m %s\n' "$title" >&2
start=$(date +%s)
"$@"
status=$?
took=$(( $(date +%s) - start ))
if [ $status -ne 0 ]; then
    printf '\033[31m==> %s failed after %s s (exit %s)\033[0m\n' "$title" "$took" "$status" >&2
    exit $status
fi
printf '\033[1m==>\033[0m %s: %s s\n' "$title" "$took" >&2
