#!/usr/bin/env bash
# The encoders that serve, against ONNX Runtime on the same weights: vectors of two hundred lines of text, and what
# each takes for them; then the whole platform with both, asked by the unmodified openai package.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
. tests/peers/platform.sh
python_env target/tools/encoders tests/peers/encoders/requirements.txt
. scripts/selection.sh
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native "${optimised[@]}"
models=${QUDAO_MODELS_DIR:-$HOME/.cache/qudao/models}
for model in multilingual-e5-small all-minilm-l6-v2; do
    # The tests of the plugins fetch it; who runs this alone does it here.
    [ -f "$models/$model.safetensors" ] || RUSTFLAGS="-C target-cpu=native" cargo test --quiet --release \
        --target-dir target/native -p qudao-encoder --test real agrees_with_onnx_runtime >&2
    target/tools/encoders/bin/python tests/peers/encoders/compare.py "$models/$model.safetensors" target/native/release/features
done

PEER_SETTINGS=
for model in multilingual-e5-small all-minilm-l6-v2; do
    PEER_SETTINGS+="
[[instances]]
name = \"$model\"
plugin = \"embedder\"
config = { path = \"$models/$model.safetensors\" }
[[instances.models]]
name = \"$model\"
kind = \"embed\"
context_tokens = 512
prices = [
    { currency = \"CNY\", input_per_mtok = \"0.10\", output_per_mtok = \"0\" },
    { currency = \"USD\", input_per_mtok = \"0.10\", output_per_mtok = \"0\" },
]
"
done
export PEER_SETTINGS PEER_PLUGINS=embedder
start_platform "$(free_port)"
target/tools/encoders/bin/python tests/peers/encoders/served.py "$QUDAO_DEMO" "$models"
