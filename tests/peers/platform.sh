# Sourced by the run.sh of peers that want the whole platform: `start_platform PORT…` starts one with
# the echo model whose adapters may reach these ports of this machine, and sets QUDAO_DEMO. With
# PEER_PLUGINS names plugins beside echo, and PEER_SETTINGS is written at the end of the settings. With
# QUDAO_DEMO set already nothing is started: then that platform's [egress] allows this machine, http
# and the ports, and QUDAO_PEER_MODEL names the model that its answers come from.
. scripts/await.sh

free_port() {
    python3 tests/peers/free_port.py
}

stop_platform() {
    status=$?
    if [ -n "${server:-}" ]; then kill -TERM "$server" 2>/dev/null && wait "$server" || true; fi
    if [ $status -ne 0 ]; then tail -n 40 "$work/log" >&2 || true; fi
    rm -rf "$work"
}

start_platform() {
    [ -z "${QUDAO_DEMO:-}" ] || return 0
    local plugins=$PWD/target/peer-plugins ports
    ports=$(IFS=,; echo "$*")
    work=$(mktemp -d "${TMPDIR:-/tmp}/qudao-peers.XXXXXX")
    # The private Postgres is another user when this one is root.
    chmod 755 "$work"
    trap stop_platform EXIT
    scripts/build-tests.sh
    target/debug/xtask plugins --dev --built --only "echo${PEER_PLUGINS:+,$PEER_PLUGINS}" --out target/peer-plugins
    export QUDAO_HOME=$work/home QUDAO_CONFIG=$work/qudao.toml QUDAO_BIND=127.0.0.1:$(free_port)
    cat >"$QUDAO_CONFIG" <<TOML
[server]
public_url = "http://$QUDAO_BIND"

[plugins]
dirs = ["$plugins"]
trusted_keys = ["$(cat "$plugins/signer.pub")"]

[demo]
model = "echo"

[egress]
allow_http = true
allow_networks = ["127.0.0.0/8"]
ports = [$ports]

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
    printf '%s\n' "${PEER_SETTINGS:-}" >>"$QUDAO_CONFIG"
    target/debug/qudao serve --demo >"$work/log" 2>&1 &
    server=$!
    await 90 "demo.json" test -s "$QUDAO_HOME/demo.json"
    export QUDAO_DEMO=$QUDAO_HOME/demo.json
}
