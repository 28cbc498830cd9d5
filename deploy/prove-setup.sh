#!/usr/bin/env bash
# prove-setup.sh ROOT: scripts/setup.sh on a bare Debian. As root, on a machine with debootstrap, a
# network and a Rust toolchain, which the root borrows.
#
# ROOT is a clean Debian root, made when absent and never changed; all happens in ROOT.setup:
#   1. an ordinary user without sudo is told one line to type, exit 3
#   2. root gets everything, twice in a row, the second time without touching anything
#   3. the ordinary user finds nothing missing any more
# and in ROOT.told, another copy: root types the line of 1, and then the user has all there is.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'prove: %s\n' "$*" >&2; exit 1; }

outside() {
    clean=$1
    [ "$(id -u)" = 0 ] || die "run it as root"
    [ -e "$clean/etc/debian_version" ] || debootstrap --variant=minbase bookworm "$clean" \
        "${QUDAO_MIRROR:-http://deb.debian.org/debian}" >/dev/null
    root=$clean.setup
    rm -rf --one-file-system "$root"
    cp -a "$clean" "$root"
    prepare
    unshare --mount --pid --fork "$0" --inside "$root"
    local line; line=$(told)
    root=$clean.told
    rm -rf --one-file-system "$root"
    cp -a "$clean" "$root"
    prepare
    unshare --mount --pid --fork "$0" --told "$root" "$line"
    say "all proven; left in $clean.setup and $clean.told"
}

# What to type, out of what was said to the user.
told() { sed -n 's/.*try again:  sudo //p' "$root.told-user"; }

prepare() {
    mkdir -p "$root/src" "$root/rust"
    # The network of this machine may have an authority of its own.
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/authorities.crt"
    git -C "$here/.." archive HEAD | tar -x -C "$root/src"
    chroot "$root" useradd --create-home ordinary
    chroot "$root" chown -R ordinary /src
}

# enter USER WORD…
enter() {
    local user=$1 home; shift
    home=/home/$user; [ "$user" = root ] && home=/root
    env -i HOME="$home" PIP_CERT=/authorities.crt PATH="/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        chroot --userspec="$user:$user" "$root" /usr/bin/env -C /src "$@"
}

mounts() {
    mount --bind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount --bind -o ro "$(rustc --print sysroot)" "$root/rust"
}

typed() {
    mounts
    say "root types: $1"
    enter root /bin/sh -c "$1" >"$root.log" 2>&1 || { tail "$root.log" >&2; die "it failed"; }
    say "and the ordinary user goes on"
    enter ordinary scripts/setup.sh run
    chroot "$root" /src/target/tools/node/bin/node --version
}

inside() {
    mounts

    say "an ordinary user without sudo"
    local status=0
    enter ordinary scripts/setup.sh run 2>"$root.said" || status=$?
    cat "$root.said" >&2
    cp "$root.said" "$root.told-user"
    [ "$status" = 3 ] || die "exit $status, not 3"
    [ "$(wc -l <"$root.said")" = 1 ] || die "it said more than a line"
    [ -n "$(told)" ] || die "it did not say what to type"

    local round
    for round in first second; do
        say "root, the $round time"
        local begun=$SECONDS
        enter root scripts/setup.sh run 2>"$root.said" || { cat "$root.said" >&2; die "it failed"; }
        cat "$root.said" >&2
        say "took $((SECONDS - begun)) s"
    done
    [ ! -s "$root.said" ] || die "the second time it did something"
    chroot "$root" /bin/sh -c 'ls /usr/lib/postgresql/*/bin/postgres /usr/bin/redis-check-rdb; cc --version | head -1
        make --version | head -1; cd /src && target/tools/node/bin/node --version && PATH=$PATH:/src/target/tools/node/bin npm --version'
    [ ! -e "$root/etc/postgresql/15/main" ] || die "Debian's own cluster was made"

    say "the ordinary user once more"
    chroot "$root" chown -R ordinary /src
    enter ordinary scripts/setup.sh run 2>&1 | tee "$root.said"
    [ ! -s "$root.said" ] || die "it did something"
}

case ${1:-} in
    --inside) root=$2; inside ;;
    --told) root=$2; typed "$3" ;;
    "" | -*) die "usage: deploy/prove-setup.sh ROOT" ;;
    *) outside "$(realpath -m "$1")" ;;
esac
