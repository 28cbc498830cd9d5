#!/usr/bin/env bash
# The encoders that serve, against ONNX Runtime on the same weights: vectors of two hundred lines of text, and what
# each takes for them.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
python_env target/tools/encoders tests/peers/encoders/requirements.txt
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native -p qudao-encoder
models=${QUDAO_MODELS_DIR:-$HOME/.cache/qudao/models}
for model in multilingual-e5-small all-minilm-l6-v2; do
    # The tests of the plugins fetch it; who runs this alone does it here.
    [ -f "$models/$model.safetensors" ] || RUSTFLAGS="-C target-cpu=native" cargo test --quiet --release \
        --target-dir target/native -p qudao-encoder --test real agrees_with_onnx_runtime >&2
    target/tools/encoders/bin/python tests/peers/encoders/compare.py "$models/$model.safetensors" target/native/release/features
done
