#!/usr/bin/env bash
# The platform as its users meet it: started by its binary on a fresh home with a real local model,
# asked by the unmodified openai package and by a browser, checked, stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/await.sh

profile=${QUDAO_E2E_PROFILE:-debug}
bin=target/$profile
model=${QUDAO_E2E_MODEL:-smollm2-135m-instruct}
shots=${QUDAO_SCREENSHOTS:-target/screenshots}
mkdir -p "$shots"

cargo_flags=(); [ "$profile" = release ] && cargo_flags=(--release)
cargo build --quiet "${cargo_flags[@]}" --bins -p qudao-cli -p qudao-plugin-host
cargo xtask plugins
"$bin/qudao" model pull "$model"

work=$(mktemp -d "${TMPDIR:-/tmp}/qudao-e2e.XXXXXX")
chmod 755 "$work"
cleanup() {
    status=$?
    [ -n "${server:-}" ] && kill -TERM "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
    [ $status -eq 0 ] || { echo "--- the platform's log:" >&2; tail -n 60 "$work/log" >&2; }
    rm -rf "$work"
}
trap cleanup EXIT

export QUDAO_HOME=$work/home QUDAO_BIND=127.0.0.1:0
"$bin/qudao" serve --demo >"$work/log" 2>&1 &
server=$!
await 120 "demo.json" test -s "$QUDAO_HOME/demo.json"
base=$(python3 -c 'import json,os;print(json.load(open(os.environ["QUDAO_HOME"]+"/demo.json"))["base_url"])')
await 180 "every model ready" curl -fsS -o /dev/null "$base/readyz"

venv=target/tools/openai-sdk
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install --quiet --disable-pip-version-check -r tests/openai-sdk/requirements.txt
$venv/bin/python tests/openai-sdk/check.py "$QUDAO_HOME/demo.json" "$model"

(cd tests/e2e && npm ci --silent --no-audit --no-fund)
QUDAO_DEMO=$QUDAO_HOME/demo.json QUDAO_SCREENSHOTS=$(realpath "$shots") \
    node --test --test-concurrency=1 tests/e2e/*.test.mjs

"$bin/qudao" check
kill -TERM "$server"
wait "$server"
unset server
