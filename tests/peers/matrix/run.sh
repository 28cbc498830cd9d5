#!/usr/bin/env bash
# The Matrix channel as an application service of a real homeserver, Synapse, with a person on it.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/matrix
venv=target/tools/matrix

python_env "$venv" "$here/requirements.txt"
scripts/build-tests.sh
exec $venv/bin/python $here/check.py target/debug/examples/adapter
