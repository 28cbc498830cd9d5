#!/usr/bin/env bash
# The whole platform in a conversation by e-mail (mail-devel), one on Matrix (Synapse), one on WeChat
# (wechatpy in its place) and one of a partner's, from its keys to live: made over the admin API,
# answered by a model, seen by a person on the other side.
#
# QUDAO_PEER_MODEL names another model than echo, of a platform that is running: then QUDAO_DEMO is
# its demo.json, and its [egress] allows this machine, http, and the ports QUDAO_MATRIX_PORT and
# QUDAO_PARTNER_PORT.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. tests/peers/platform.sh
. scripts/python-env.sh
here=tests/peers/conversations

for name in mail matrix cn-signatures; do
    venv=target/tools/$name
    python_env "$venv" "tests/peers/$name/requirements.txt"
done

export QUDAO_MATRIX_PORT=${QUDAO_MATRIX_PORT:-$(free_port)}
export QUDAO_PARTNER_PORT=${QUDAO_PARTNER_PORT:-$(free_port)} QUDAO_KIT_PORT=${QUDAO_KIT_PORT:-$(free_port)}
start_platform "$QUDAO_MATRIX_PORT" "$QUDAO_PARTNER_PORT"
scripts/build-tests.sh

target/tools/mail/bin/python $here/mail.py
target/tools/matrix/bin/python $here/rooms.py
python3 $here/partner.py
if [ -z "${QUDAO_PEER_MODEL:-}" ]; then target/tools/cn-signatures/bin/python $here/wechat.py; fi
echo "conversations: a mail, a room and a partner's person were answered by ${QUDAO_PEER_MODEL:-echo}"
