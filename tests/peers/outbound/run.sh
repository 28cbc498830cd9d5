#!/usr/bin/env bash
# What the adapters send, judged by the vendors' types and by an emulator made by others.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=$PWD/tests/peers/outbound
tools=$PWD/target/tools/outbound

venv=$tools/venv
python_env "$venv" "$here/requirements.txt"
mkdir -p "$tools/node"
cp "$here/package.json" "$here/package-lock.json" "$tools/node/"
(cd "$tools/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)

work=$(mktemp -d "${TMPDIR:-/tmp}/qudao-outbound.XXXXXX")
trap 'rm -rf "$work"' EXIT
scripts/build-tests.sh
"$venv/bin/python" "$here/check.py" "$PWD/${CARGO_TARGET_DIR:-target}/debug/examples/adapter" \
    "$tools/node" "$venv/bin/mockpost" "$work"
