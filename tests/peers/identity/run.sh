#!/usr/bin/env bash
# Who a visitor is: tokens signed by PyJWT with a secret, an elliptic and an Edwards key, and codes and
# copies of a conversation that arrive in mail-devel, which is away when the first one is sent. Codes to a
# number go to as much of Meta's Graph API as they need.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. tests/peers/platform.sh
. scripts/python-env.sh
here=tests/peers/identity
venv=target/tools/identity

python_env "$venv" "$here/requirements.txt"
MAIL_PORT=$(free_port)
GRAPH_PORT=$(free_port)
export MAIL_PORT GRAPH_PORT QUDAO_MAIL_URL=smtp+plain://127.0.0.1:$MAIL_PORT QUDAO__MAIL__FROM=no-reply@qudao.example
# A platform of our own: it has to know the mail server.
unset QUDAO_DEMO
start_platform "$MAIL_PORT" "$GRAPH_PORT"
$venv/bin/python $here/visitor.py
