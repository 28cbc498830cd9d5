#!/usr/bin/env bash
# The Matrix channel as an application service of a real homeserver, Synapse, with a person on it.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=tests/peers/matrix
venv=target/tools/matrix

$venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $venv
$venv/bin/python -m pip install --quiet --disable-pip-version-check -r $here/requirements.txt
cargo build --quiet -p qudao-channels --example adapter
exec $venv/bin/python $here/check.py target/debug/examples/adapter
