#!/usr/bin/env bash
# A bot of the platform on two emulators of Telegram that others made, mockpost and telemelya.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. tests/peers/platform.sh
here=tests/peers/telegram

# Each in an environment of its own: their libraries do not agree.
for name in mockpost telemelya moto; do
    venv=target/tools/$name
    $venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $venv
    $venv/bin/python -m pip install --quiet --disable-pip-version-check -r $here/requirements-$name.txt
done
export QUDAO_MOCKPOST_PORT=${QUDAO_MOCKPOST_PORT:-$(free_port)} QUDAO_RELAY_PORT=${QUDAO_RELAY_PORT:-$(free_port)}
start_platform "$QUDAO_MOCKPOST_PORT" "$QUDAO_RELAY_PORT"
python3 $here/check.py
