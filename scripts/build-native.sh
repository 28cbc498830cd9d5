#!/usr/bin/env bash
# Builds the plugins that compute, with their tests, for the processor of this machine. All in one
# selection, as in build-tests.sh; a second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/selection.sh
export RUSTFLAGS="-C target-cpu=native"
in=(--release --target-dir target/native)
cargo build --quiet "${in[@]}" "${optimised[@]}" -p qudao-plugin-host
# So that no test waits for a compiler.
if cargo nextest --version >/dev/null 2>&1; then test=(nextest run); else test=(test); fi
QUDAO_BUILT=1 cargo "${test[@]}" --no-run "${in[@]}" "${optimised[@]}"
