#!/usr/bin/env bash
# gpu-check.sh [--dry-run] [--skip-build] [MODEL…]
# On a machine with an NVIDIA GPU: builds the plugins' CUDA artifacts for it, runs their tests with them,
# and measures models on the GPU beside the processor. The figures go to target/gpu-check/, a JSON file
# for each run. Exit codes: 0 all passed, 1 something failed, 3 something is missing.
#   --dry-run     say what would be done, and do none of it
#   --skip-build  with the artifacts that are there
# Models are those of `qudao model list`; three small ones when none is named.
set -euo pipefail
cd "$(dirname "$0")/.."

dry=0
build=1
models=()
for word in "$@"; do
    case $word in
    --dry-run) dry=1 ;;
    --skip-build) build=0 ;;
    -*) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
    *) models+=("$word") ;;
    esac
done
[ ${#models[@]} -gt 0 ] || models=(smollm2-135m-instruct qwen2.5-coder-0.5b-instruct multilingual-e5-small)

fail() { printf 'gpu-check: %s\n' "$*" >&2; exit 3; }
step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
run() {
    printf '$ %s\n' "$*" >&2
    [ "$dry" = 1 ] || "$@"
}

# --- the machine ------------------------------------------------------------------------------------
command -v nvidia-smi >/dev/null || fail "nvidia-smi is missing: install the driver first, release 580 or later"
# Of the first GPU: several are used one at a time, by the setting device.
IFS=, read -r name driver capability memory < <(
    nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader,nounits | head -n 1
) || fail "nvidia-smi finds no GPU"
driver=${driver// /} capability=${capability// /} memory=${memory// /}
step "$name, $memory MiB, driver $driver, compute capability $capability"
[ "${driver%%.*}" -ge 580 ] || fail "the driver is $driver, and CUDA 13 needs 580 or later"
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-${capability/./}}

# --- the artifacts ----------------------------------------------------------------------------------
jobs=$(nproc)
if [ "$build" = 1 ]; then
    step "building the plugins for compute capability $CUDA_COMPUTE_CAP"
    run env "QUDAO_JOBS=$jobs" scripts/cuda.sh
    run env CARGO_PROFILE_RELEASE_LTO=thin cargo build --release -p qudao-cli -p qudao-plugin-host -p xtask
    run target/release/xtask plugins
fi
# --- the tests --------------------------------------------------------------------------------------
plugins=() features=
for manifest in plugins/*/plugin.toml; do
    grep -q '^variant = "cuda"' "$manifest" || continue
    package=qudao-plugin-$(basename "$(dirname "$manifest")")
    plugins+=(-p "$package")
    features=$features${features:+,}$package/cuda
done
step "the model tests, with the artifacts for GPUs"
toolkit=${CUDA_HOME:-$PWD/target/tools/cuda/13.0.2}
# NVIDIA's libraries, unless the system's loader has them; the plugins' processes are told as well.
export LD_LIBRARY_PATH=$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
failed=0
# As scripts/cuda.sh builds, so that what it has built is taken.
run env "RUSTFLAGS=-C target-cpu=native -L native=$PWD/target/tools/cuda/stubs" "CUDA_HOME=$toolkit" \
    "PATH=$toolkit/bin:$PATH" "CUDAFORGE_THREADS=$jobs" \
    cargo test --release --target-dir target/cuda "${plugins[@]}" -p qudao-device -p qudao-encoder --features "$features" || failed=1

# --- the figures ------------------------------------------------------------------------------------
report=target/gpu-check
run mkdir -p "$report"
for model in "${models[@]}"; do
    run target/release/qudao model pull "$model" || { failed=1; continue; }
    for device in cuda:0 cpu; do
        step "$model on $device"
        file=$report/$model-${device%:*}.json
        printf '$ target/release/qudao model bench %s --device %s --json > %s\n' "$model" "$device" "$file" >&2
        [ "$dry" = 1 ] || target/release/qudao model bench "$model" --device "$device" --json >"$file" || failed=1
        # A figure of the wrong artifact would be worse than none.
        if [ "$dry" = 0 ] && [ "$device" != cpu ] && ! grep -q '"variant": "cuda"' "$file"; then
            printf 'gpu-check: %s did not run on the GPU\n' "$model" >&2
            failed=1
        fi
    done
done
if [ "$failed" = 0 ]; then step "passed; the figures are in $report"; else step "failed; what there is is in $report"; fi
exit "$failed"
