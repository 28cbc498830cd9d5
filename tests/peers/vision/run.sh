#!/usr/bin/env bash
# The detector beside ONNX Runtime: the same numbers on the same pictures, and how fast each is.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/vision
venv=target/tools/vision
onnx=${QUDAO_YOLOX_ONNX:-}

if [ -z "$onnx" ]; then
    echo "vision: LEFT OUT. Set QUDAO_YOLOX_ONNX to yolox_nano.onnx of the YOLOX project's release 0.1.1rc0" \
        "(docs/vision.md); nothing was compared"
    exit 0
fi
python_env "$venv" "$here/requirements.txt"
. scripts/selection.sh
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native \
    "${optimised[@]}" --example look
look=target/native/release/examples/look
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
$look convert "$onnx" "$raw/yolox-nano.safetensors"
"$venv/bin/python" "$here/compare.py" $look "$onnx" "$raw/yolox-nano.safetensors" "$raw"
