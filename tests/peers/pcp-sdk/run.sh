#!/usr/bin/env bash
# The SDKs of the partner channel protocol held against the Standard Webhooks libraries of PyPI and
# npm, and against the conformance kit. The one in Rust is a test of qudao-pcp.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/pcp-sdk
tools=$PWD/target/tools/pcp-sdk
mkdir -p "$tools"

python_env "$tools/venv" "$here/requirements.txt"
cp $here/package.json $here/package-lock.json $here/*.mjs "$tools/"
(cd "$tools" && npm ci --silent --no-audit --no-fund)
"$tools/node_modules/.bin/tsc" -p sdk/typescript --outDir "$tools/dist" --typeRoots "$tools/node_modules/@types"

PYTHONPATH=sdk/python "$tools/venv/bin/python" $here/oracle.py
(cd "$tools" && node --test oracle.test.mjs >"$tools/node.log" 2>&1) || { cat "$tools/node.log" >&2; exit 1; }

scripts/build-tests.sh
eval "$(target/debug/qudao-conform keys)"
# Their own ports may be taken on this machine.
port=$(python3 tests/peers/free_port.py)
PCP_PORT=$(python3 tests/peers/free_port.py)
export PCP_BASE_URL=http://127.0.0.1:$port PCP_PORT PCP_LISTEN=127.0.0.1:$PCP_PORT
export PCP_ADAPTER_URL=http://127.0.0.1:$PCP_PORT/pcp
try() {
    "$@" >"$tools/adapter.log" 2>&1 &
    adapter=$!
    trap 'kill $adapter 2>/dev/null || true' EXIT
    target/debug/qudao-conform --role adapter --listen "127.0.0.1:$port" >"$tools/conform.log" 2>&1 \
        || { cat "$tools/conform.log" "$tools/adapter.log" >&2; exit 1; }
    kill $adapter
    wait $adapter 2>/dev/null || true
}
try env PYTHONPATH=sdk/python "$tools/venv/bin/python" examples/partner/echo_channel.py
try node "$tools/echo.mjs"
try target/debug/examples/echo_adapter
echo "pcp-sdk: Python and TypeScript agree with standardwebhooks; the adapters in Python, TypeScript and Rust conform"
