#!/usr/bin/env bash
# A bot of the platform on two emulators of Telegram that others made, mockpost and telemelya.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. tests/peers/platform.sh
. scripts/python-env.sh
here=tests/peers/telegram

# Each in an environment of its own: their libraries do not agree.
for name in mockpost telemelya moto; do
    venv=target/tools/$name
    python_env "$venv" "$here/requirements-$name.txt"
done
export QUDAO_MOCKPOST_PORT=${QUDAO_MOCKPOST_PORT:-$(free_port)} QUDAO_RELAY_PORT=${QUDAO_RELAY_PORT:-$(free_port)}
start_platform "$QUDAO_MOCKPOST_PORT" "$QUDAO_RELAY_PORT"
python3 $here/check.py
