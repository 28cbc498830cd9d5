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
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# record NAME STATUS SECONDS: what the last lines say of a part.
record() {
    local verdict=passed
    if [ "$2" -ne 0 ]; then verdict=FAILED; failed=1; fi
    results+=("$(printf '%-6s %s in %s s' "$1" "$verdict" "$3")")
}

say() { printf '\n\033[1m==> tests: %s\033[0m\n' "$1" >&2; }

part() {
    local start=$SECONDS
    say "$1"
    "$1"
    record "$1" $? $(( SECONDS - start ))
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

# The part `rust` waits a quarter of its time: beside it the plugins that compute are compiled, at the
# lowest priority.
native=
build_native_beside() {
    if ! wanted model && ! wanted e2e; then return; fi
    nice -n 19 scripts/build-native.sh >"$logs/native" 2>&1 &
    native=$!
}
build_native() {
    # What failed is said by the second try.
    if [ -n "$native" ]; then wait "$native"; fi
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
log_of() { printf '%s/%s' "$logs" "$(basename "$(dirname "$1")")"; }
peers() {
    local run failures=()
    for run in tests/peers/*/run.sh; do
        printf '%s\n' "-- $run" >&2
        # Into a file: a pipe would wait for whoever it left running.
        "$run" >"$(log_of "$run")" 2>&1 || failures+=("$run")
        tail -n 1 "$(log_of "$run")" | cut -c 1-300 >&2
    done
    for run in "${failures[@]}"; do
        printf '%s\n' "-- $run FAILED:" >&2
        tail -n 25 "$(log_of "$run")" | cut -c 1-600 >&2
    done
    [ ${#failures[@]} -eq 0 ]
}

for name in "${parts[@]}"; do
    # These two mostly wait, for browsers, servers and packages: one is run beside the other.
    if [ "$name" = e2e ] && wanted peers; then
        start=$SECONDS
        (peers; printf '%s %s\n' $? $(( SECONDS - start )) >"$logs/ended") >"$logs/peers" 2>&1 &
        beside=$!
        part e2e
        wait "$beside"
        say "peers (beside the last)"
        cat "$logs/peers" >&2
        read -r status took <"$logs/ended"
        record peers "$status" "$took"
    elif [ "$name" != peers ] || ! wanted e2e; then
        part "$name"
    fi
done
printf '\n'
printf '%s\n' "${results[@]}"
exit $failed
