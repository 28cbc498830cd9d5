#!/usr/bin/env bash
# The adapters' checks of signatures beside those of the vendors' own libraries.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=$PWD/tests/peers/signatures
tools=$PWD/target/tools/signatures

venv=$tools/venv
python_env "$venv" "$here/requirements.txt"
mkdir -p "$tools/node"
cp "$here/package.json" "$here/package-lock.json" "$here/judge.mjs" "$tools/node/"
(cd "$tools/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)

scripts/build-tests.sh
"$venv/bin/python" "$here/check.py" "$PWD/${CARGO_TARGET_DIR:-target}/debug/examples/adapter" \
    node "$tools/node/judge.mjs" "$tools/node"
