#!/usr/bin/env bash
# The whole platform in a conversation by e-mail (mail-devel), one on Matrix (Synapse) and one on
# WeChat (wechatpy in its place): made over the admin API, answered by a model, seen by a person on
# the other side.
#
# QUDAO_PEER_MODEL names another model than echo, of a platform that is running: then QUDAO_DEMO is
# its demo.json, and its [egress] allows this machine, http, and the port QUDAO_MATRIX_PORT.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/await.sh
here=tests/peers/conversations

for name in mail matrix cn-signatures; do
    venv=target/tools/$name
    $venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $venv
    $venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/peers/$name/requirements.txt
done

if [ -z "${QUDAO_DEMO:-}" ]; then
    plugins=$PWD/target/e2e-plugins
    work=$(mktemp -d "${TMPDIR:-/tmp}/qudao-peers.XXXXXX")
    # The private Postgres is another user when this one is root.
    chmod 755 "$work"
    cleanup() {
        status=$?
        if [ -n "${server:-}" ]; then kill -TERM "$server" 2>/dev/null && wait "$server" || true; fi
        if [ $status -ne 0 ]; then tail -n 40 "$work/log" >&2 || true; fi
        rm -rf "$work"
    }
    trap cleanup EXIT
    cargo build --quiet --bins -p qudao-cli -p qudao-plugin-host
    cargo xtask plugins --dev --only echo --out target/e2e-plugins
    QUDAO_MATRIX_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export QUDAO_MATRIX_PORT QUDAO_HOME=$work/home QUDAO_CONFIG=$work/qudao.toml QUDAO_BIND=127.0.0.1:0
    cat >"$QUDAO_CONFIG" <<TOML
[plugins]
dirs = ["$plugins"]
trusted_keys = ["$(cat "$plugins/signer.pub")"]

[demo]
model = "echo"

[egress]
allow_http = true
allow_networks = ["127.0.0.0/8"]
ports = [$QUDAO_MATRIX_PORT]

[[instances]]
name = "echo"
plugin = "echo"
config = { delay_ms = 20 }
[[instances.models]]
name = "echo"
prices = [
    { currency = "CNY", input_per_mtok = "0.10", output_per_mtok = "0.10" },
    { currency = "USD", input_per_mtok = "0.10", output_per_mtok = "0.10" },
]

# Takes longer than WeChat waits.
[[instances]]
name = "echo-slow"
plugin = "echo"
config = { delay_ms = 1500 }
[[instances.models]]
name = "echo-slow"
prices = [
    { currency = "CNY", input_per_mtok = "0.10", output_per_mtok = "0.10" },
    { currency = "USD", input_per_mtok = "0.10", output_per_mtok = "0.10" },
]
TOML
    target/debug/qudao serve --demo >"$work/log" 2>&1 &
    server=$!
    await 90 "demo.json" test -s "$QUDAO_HOME/demo.json"
    export QUDAO_DEMO=$QUDAO_HOME/demo.json
fi

target/tools/mail/bin/python $here/mail.py
target/tools/matrix/bin/python $here/rooms.py
if [ -z "${QUDAO_PEER_MODEL:-}" ]; then target/tools/cn-signatures/bin/python $here/wechat.py; fi
echo "conversations: a mail and a room were answered by ${QUDAO_PEER_MODEL:-echo}"
