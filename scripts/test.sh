#!/usr/bin/env bash
# Every test, in the order in which a failure is cheapest. Ends with one line for each part.
# Words name parts to run alone: scripts/test.sh [web] [rust] [model] [e2e] [peers] [lint]
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/selection.sh
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(web lint rust model e2e peers)
results=()
failed=0

part() {
    local name=$1; shift
    local start; start=$(date +%s)
    printf '\n\033[1m==> tests: %s\033[0m\n' "$name" >&2
    if "$@"; then verdict=passed; else verdict=FAILED; failed=1; fi
    results+=("$(printf '%-6s %s in %s s' "$name" "$verdict" "$(( $(date +%s) - start ))")")
}

# cargo-nextest runs each test in a process of its own; without it `cargo test` does.
if cargo nextest --version >/dev/null 2>&1; then
    cargo_test() { cargo nextest run "$@"; }
else
    cargo_test() { cargo test "$@"; }
fi

web() {
    scripts/npm-build.sh web/chat && scripts/npm-build.sh web/console && scripts/npm-build.sh web/docs \
        && scripts/npm-build.sh web/widget \
        && (cd web/chat && npm run --silent size && npm test --silent) \
        && (cd web/console && npm run --silent size && npm test --silent) \
        && (cd web/widget && npm run --silent size && npm test --silent)
}

lint() { scripts/build-tests.sh && QUDAO_BIN=$PWD/target/debug/qudao target/debug/xtask check; }

# The plugins that compute take as long to compile as the part `rust` to run, which waits more than it
# computes: one is done beside the other, at the lowest priority.
native_log=$(mktemp)
trap 'rm -f "$native_log"' EXIT
native=
build_native_beside() {
    [[ " ${parts[*]} " =~ \ (model|e2e)\  ]] || return 0
    nice -n 19 scripts/build-native.sh >"$native_log" 2>&1 &
    native=$!
}
build_native() {
    if [ -n "$native" ]; then
        # What failed is said by the second try.
        wait "$native" && return
    fi
    native=
    scripts/build-native.sh
}

rust() {
    # What the system tests start and load comes first.
    scripts/build-tests.sh || return
    build_native_beside
    target/debug/xtask plugins --dev --built --only echo,rogue,openai --out target/test-plugins \
        && QUDAO_BUILT=1 target/debug/testbed -- bash -c "$(declare -f cargo_test); cargo_test ${unoptimised[*]}"
}

# Real weights need optimised code; the folder is shared with the plugin that is laid out.
model() {
    build_native || return
    QUDAO_BUILT=1 RUSTFLAGS="-C target-cpu=native" \
        cargo_test --release --target-dir target/native "${optimised[@]}"
}

e2e() { scripts/e2e.sh; }

# Adapters, the kit and the SDKs against libraries and servers that others made. What a failed one
# printed last is said again at the end, where it is looked for.
peers() {
    local run logs failures=()
    logs=$(mktemp -d)
    for run in tests/peers/*/run.sh; do
        printf '%s\n' "-- $run" >&2
        # Into a file: a pipe would wait for whoever it left running.
        "$run" >"$logs/$(basename "$(dirname "$run")")" 2>&1 || failures+=("$run")
        tail -n 1 "$logs/$(basename "$(dirname "$run")")" | cut -c 1-300 >&2
    done
    for run in "${failures[@]}"; do
        printf '%s\n' "-- $run FAILED:" >&2
        tail -n 25 "$logs/$(basename "$(dirname "$run")")" | cut -c 1-600 >&2
    done
    rm -rf "$logs"
    [ ${#failures[@]} -eq 0 ]
}

for name in "${parts[@]}"; do part "$name" "$name"; done
printf '\n'
printf '%s\n' "${results[@]}"
exit $failed
