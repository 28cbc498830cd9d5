#!/usr/bin/env bash
# Builds what tests start and load, but for the plugins that compute, which are optimised. In one
# stroke: cargo compiles other people's libraries anew for each selection of packages whose features
# differ, and several strokes take twice as long. A second run takes a second.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/selection.sh
cargo build --quiet "${unoptimised[@]}" --lib --bins --tests --examples
# The checks under faults have a feature that nothing else has. The test is there so that cargo reckons
# with what tests ask of other people's libraries, as above.
cargo build --quiet "${unoptimised[@]}" --features qudao-chaos/failpoints --bin chaos --bin chaos-node --test header
