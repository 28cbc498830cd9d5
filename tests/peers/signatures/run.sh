#!/usr/bin/env bash
# The adapters' checks of signatures beside those of the vendors' own libraries.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=$PWD/tests/peers/signatures
tools=$PWD/target/tools/signatures

venv=$tools/venv
$venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
mkdir -p "$tools/node"
cp "$here/package.json" "$here/package-lock.json" "$here/judge.mjs" "$tools/node/"
(cd "$tools/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)

cargo build --quiet -p qudao-channels --example adapter
"$venv/bin/python" "$here/check.py" "$PWD/${CARGO_TARGET_DIR:-target}/debug/examples/adapter" \
    node "$tools/node/judge.mjs" "$tools/node"
