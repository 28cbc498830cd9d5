#!/usr/bin/env bash
# Builds the CUDA artifacts of plugins, on a machine with or without a GPU.
#   scripts/cuda.sh [PLUGIN…]      all plugins that have one when none is named
# NVIDIA's compiler and libraries come from CUDA_HOME if it has bin/nvcc, else from pinned packages of
# the Python package index (1.2 GB below target/tools/cuda). The driver's libcuda.so is nowhere in
# them: a stand-in is made to link against, of which nothing ends up in the artifact but the name.
#   CUDA_COMPUTE_CAP   generation of the GPUs (default 80; the fast kernels run on that major alone)
#   CUDA_ARCHS         further generations for the fast kernels, such as "89 90"; each takes as long again
#   QUDAO_PORTABLE=1   processor code for x86-64-v3 instead of this machine's
#   QUDAO_CUDA_TARGET  where to build (default target/cuda)   QUDAO_CUDA_TOOLS  where the packages go
#   QUDAO_JOBS         compilers at once (default 1)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
toolkit_version=13.0.2
tools=${QUDAO_CUDA_TOOLS:-$root/target/tools/cuda}
target=${QUDAO_CUDA_TARGET:-$root/target/cuda}

fail() { printf 'cuda: %s\n' "$*" >&2; exit 3; }

# Those that say so themselves.
offered() { grep -lE '^variant = "cuda"' plugins/*/plugin.toml | xargs -n 1 dirname | xargs -n 1 basename; }

# Wheels lack unversioned names and lib64: an overlay of links has them.
toolkit() {
    if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then return; fi
    local room; room=$(df --output=avail -BG "$root" | tail -n 1 | tr -dc 0-9)
    [ "$room" -ge 8 ] || fail "8 GB of disk are needed, $room GB are free"
    local home=$tools/$toolkit_version
    if [ ! -x "$home/bin/nvcc" ]; then
        python3 -m venv "$tools/venv"
        "$tools/venv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check \
            "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl,curand,nvrtc,cublas]==$toolkit_version"
        local wheels; wheels=$("$tools/venv/bin/python" -c 'import nvidia; print(list(nvidia.__path__)[0])')/cu13
        [ -x "$wheels/bin/nvcc" ] || fail "the packages hold no nvcc"
        mkdir -p "$home/lib/stubs"
        local file name
        for file in "$wheels"/lib/*.so*; do
            name=$(basename "$file")
            ln -sf "$file" "$home/lib/$name"
            ln -sf "$name" "$home/lib/${name%%.so*}.so"
        done
        for file in "$wheels"/lib/*.a; do ln -sf "$file" "$home/lib/"; done
        ln -sfn lib "$home/lib64"
        for name in include nvvm bin; do ln -sfn "$wheels/$name" "$home/$name"; done
    fi
    export CUDA_HOME=$home
}

# A library that has every function of the driver by name, each answering that there is no GPU.
driver() {
    local stubs=$tools/stubs
    if [ ! -e "$stubs/libcuda.so" ]; then
        local bindings
        bindings=$(cargo metadata --format-version 1 --features qudao-plugin-candle-llm/cuda |
            grep -oE '"manifest_path":"[^"]*/cudarc-[^"]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)
        [ -n "$bindings" ] || fail "cudarc is not among the dependencies"
        mkdir -p "$stubs"
        grep -hoE 'fn cu[A-Z]\w*\(' "$(dirname "$bindings")/src/driver/sys/mod.rs" | sed 's/fn //;s/(//' | sort -u |
            awk '{ print "int " $1 "(void) { return 100; }" }' >"$stubs/libcuda.c"
        cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$stubs/libcuda.c"
    fi
    export LIBRARY_PATH=$stubs${LIBRARY_PATH:+:$LIBRARY_PATH}
    RUSTFLAGS="${RUSTFLAGS:-} -L native=$stubs"
}

# PTX runs on later generations, objects do not: more generations go into the objects.
generations() {
    [ -n "${CUDA_ARCHS:-}" ] || return 0
    local arch extra=
    for arch in $CUDA_ARCHS; do extra="$extra -gencode=arch=compute_$arch,code=sm_$arch"; done
    printf '#!/bin/sh\ncase " $* " in *" -c "*) exec "%s/bin/nvcc" "$@"%s ;; esac\nexec "%s/bin/nvcc" "$@"\n' \
        "$CUDA_HOME" "$extra" "$CUDA_HOME" >"$tools/nvcc"
    chmod +x "$tools/nvcc"
    export NVCC=$tools/nvcc
}

plugins=("$@")
[ ${#plugins[@]} -gt 0 ] || mapfile -t plugins < <(offered)
packages=() features=
for plugin in "${plugins[@]}"; do
    grep -q '^cuda = ' "plugins/$plugin/Cargo.toml" 2>/dev/null || fail "plugins/$plugin has no CUDA artifact"
    packages+=(-p "qudao-plugin-$plugin")
    features="$features${features:+,}qudao-plugin-$plugin/cuda"
done
mkdir -p "$tools"
processor=native
[ -z "${QUDAO_PORTABLE:-}" ] || processor=x86-64-v3
export RUSTFLAGS="-C target-cpu=$processor"
toolkit
driver
generations
export RUSTFLAGS PATH=$CUDA_HOME/bin:$PATH CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDAFORGE_THREADS=${QUDAO_JOBS:-1}
cargo build --release -j "${QUDAO_JOBS:-1}" --target-dir "$target" "${packages[@]}" --features "$features"
mkdir -p target/native/release
for plugin in "${plugins[@]}"; do
    library=libqudao_plugin_${plugin//-/_}
    cp "$target/release/$library.so" "target/native/release/${library}_cuda.so"
    printf '%s\n' "target/native/release/${library}_cuda.so"
done
