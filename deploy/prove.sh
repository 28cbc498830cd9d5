#!/usr/bin/env bash
# prove.sh ROOT [MODELS]: what can be proven of the image without a Docker engine. As root, on a
# machine with debootstrap, Postgres and a Redis server, after `make build`.
#
# ROOT is a clean Debian root; it is made when it is absent and never changed: all happens in a
# copy, ROOT.image, without a network but loopback once the packages are installed.
#   1. the RUN lines of the Dockerfile's last stage, word for word, and `deploy/install.sh`
#   2. the service `qudao` of docker-compose.yml with its own environment and command, as the
#      image's user, over a Postgres and a Redis that answer to the names `postgres` and `redis`
#   3. the same binary with a private Postgres and Redis out of Debian's packages
# MODELS is a directory of pulled models that stands for the volume's; without it `model pull`
# finds no source and the container has to start all the same.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
suite=bookworm
mirror=${QUDAO_MIRROR:-http://deb.debian.org/debian}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'prove: %s\n' "$*" >&2; exit 1; }
. "$here/../scripts/await.sh"

# The last stage's instructions of one kind, continuation lines joined.
last_stage() {
    sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' "$here/Dockerfile" \
        | awk -v kind="$1" '$1 == "FROM" { n = 0 } $1 == kind { $1 = ""; line[n++] = substr($0, 2) }
                            END { for (i = 0; i < n; i++) print line[i] }'
}
# The value of one key of the compose file, which has one of each that is asked for.
compose() { sed -n "s/^ *$1: *//p" "$here/../docker-compose.yml" | head -n 1; }

mounted() { mount --bind /dev "$root/dev" && mount -t proc proc "$root/proc"; }

# --- outside: the root and its packages; needs a network ---------------------------------------
outside() {
    local clean=$1
    [ "$(id -u)" = 0 ] || die "run it as root"
    [ -x "$here/../target/release/qudao" ] && [ -d "$here/../dist/plugins" ] || die "run make build first"
    if [ ! -e "$clean/etc/debian_version" ]; then
        say "a clean $suite root in $clean"
        debootstrap --variant=minbase "$suite" "$clean" "$mirror" >/dev/null
    fi
    root=$clean.image
    rm -rf --one-file-system "$root"
    cp -a "$clean" "$root"
    unshare --mount --pid --fork "$0" --packages "$root" "${2:-}"
    say "laying out"
    "$here/install.sh" "$root"
    unshare --mount --pid --fork --net "$0" --inside "$root" "${2:-}"
    say "all proven; left in $root"
}

packages() {
    mounted
    while IFS= read -r line; do
        say "RUN $line"
        chroot "$root" /bin/sh -c "$line" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; die "RUN failed"; }
    done < <(last_stage RUN)
    chroot "$root" dpkg-query -W -f '${Package}\n' >"$root.packages"
    say "the image has $(wc -l <"$root.packages") packages, $(du -sxm "$root" | cut -f1) MB without Qudao"
    chroot "$root" ldd --version | sed -n 1p >&2
    # For the private services alone, which the image does not have.
    say "Debian's Postgres and Redis, for the last part"
    mkdir -p "$root/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
    chroot "$root" /bin/sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
        --no-install-recommends postgresql redis-tools' >"$root.log" 2>&1 || { tail "$root.log" >&2; die "apt-get failed"; }
}

# --- inside: own mounts, processes and network --------------------------------------------------
inside() {
    mounted
    ip link set lo up
    printf '127.0.0.1 localhost postgres redis\n' >"$root/etc/hosts"
    uid=$(chroot "$root" id -u "$(last_stage USER)")
    gid=$(chroot "$root" id -g "$(last_stage USER)")
    libraries
    servers
    as_compose
    alone
}

# Starts words in the root as the user; the caller adds variables in `environment`.
enter() { (become "$@"); }
become() {
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/lib/qudao "${environment[@]}" \
        chroot --userspec="$uid:$gid" "$root" /usr/bin/env -C "$(last_stage WORKDIR)" "$@"
}

libraries() {
    say "every library of the programs and plugins is in the root"
    local file missing
    while IFS= read -r file; do
        missing=$(chroot "$root" ldd "${file#"$root"}" | grep -E 'not found' || true)
        [ -z "$missing" ] || die "${file#"$root"}: $missing"
    done < <(find "$root/usr/bin/qudao" "$root/usr/bin/qudao-plugin-host" "$root/usr/share/qudao" \
        -type f \( -perm -u+x -o -name '*.so' \))
}

servers() {
    say "Postgres and Redis on loopback, as in docker-compose.yml"
    local bin; bin=$(find /usr/lib/postgresql/*/bin -maxdepth 0 | sort -V | tail -n 1)
    data=$root.data
    rm -rf "$data"; install -d -m 755 "$data"
    install -d -o postgres -g postgres -m 700 "$data/pg"
    compose POSTGRES_PASSWORD >"$data/password"
    # The image of Postgres hands these very words to initdb.
    # shellcheck disable=SC2046
    (cd / && setpriv --reuid postgres --regid postgres --clear-groups "$bin/initdb" -D "$data/pg" \
        -U "$(compose POSTGRES_USER)" --pwfile="$data/password" -A scram-sha-256 \
        $(compose POSTGRES_INITDB_ARGS) >/dev/null
    exec setpriv --reuid postgres --regid postgres --clear-groups "$bin/postgres" -D "$data/pg" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= >"$data/pg.log" 2>&1) &
    local redis; redis=$(command -v redis-server || command -v redis-check-rdb)
    (cd / && exec -a redis-server "$redis" --bind 127.0.0.1 --dir "$data" \
        --appendonly yes --appendfsync everysec >"$data/redis.log" 2>&1) &
    PGPASSWORD=$(compose POSTGRES_PASSWORD); export PGPASSWORD
    await 60 Postgres "$bin/psql" -h 127.0.0.1 -U "$(compose POSTGRES_USER)" -d postgres -qc 'select 1' -o /dev/null
    "$bin/createdb" -h 127.0.0.1 -U "$(compose POSTGRES_USER)" "$(compose POSTGRES_DB)"
    await 30 Redis redis-cli ping
}

ask() { curl --silent --show-error --noproxy '*' --max-time 60 "$@"; }
model_is_ready() { ask http://127.0.0.1:8080/readyz | grep -qF "\"name\":\"$1\",\"instance\":\"$1\",\"state\":\"ready\""; }
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$root$2" | head -n 1; }

# Starts WORDS, asks all there is to ask, stops it by SIGTERM, which must end in 0.
serve_and_ask() {
    local home=$1 log=$2; shift 2
    become "$@" >"$log" 2>&1 &
    local server=$!
    await 300 "demo.json" test -s "$root$home/demo.json" || { tail -n 30 "$log" >&2; die "no start"; }
    await 120 readiness ask --fail -o /dev/null http://127.0.0.1:8080/readyz || { tail -n 30 "$log" >&2; die "not ready"; }
    ask --fail http://127.0.0.1:8080/livez; echo
    ask --fail http://127.0.0.1:8080/readyz; echo
    local key; key=$(field api_key "$home/demo.json")
    local model
    for model in "${asked[@]}"; do
        say "asking $model"
        await 120 "$model" model_is_ready "$model"
        ask --fail-with-body http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer $key" \
            --json "{\"model\":\"$model\",\"max_tokens\":24,\"messages\":[{\"role\":\"user\",\"content\":\"Hello from a clean root.\"}]}"
        echo
    done
    say "the health check and the books"
    enter qudao doctor --quick
    enter qudao check >"$log.check" || { cat "$log.check" >&2; die "the books do not agree"; }
    tail -n 1 "$log.check"
    local begun=$SECONDS
    # The program itself: chroot and env have become it, and so has the shell of the command.
    kill -TERM "$server"
    local status=0; wait "$server" || status=$?
    [ "$status" = 0 ] || { tail -n 30 "$log" >&2; die "SIGTERM ended in $status"; }
    say "SIGTERM: drained in $((SECONDS - begun)) s, exit 0"
}

as_compose() {
    say "the container's command, as user $(last_stage USER)"
    environment=()
    local line name
    while IFS= read -r line; do
        read -ra line <<<"$line"
        environment+=("${line[@]}")
    done < <(last_stage ENV)
    alone_environment=("${environment[@]}")
    for name in DATABASE_URL REDIS_URL QUDAO_PUBLIC_URL; do environment+=("$name=$(compose "$name")"); done
    asked=(echo)
    if [ -n "$pulled" ]; then
        # What is on the volume from the second start on.
        install -d -o "$uid" -g "$gid" "$root/var/lib/qudao/models"
        install -o "$uid" -g "$gid" -m 644 -t "$root/var/lib/qudao/models" "$pulled"/*.gguf*
        for line in "$pulled"/*.gguf; do asked+=("$(basename "$line" .gguf)"); done
    fi
    enter qudao doctor
    serve_and_ask /var/lib/qudao "$root.compose.log" /bin/sh -c "$(compose command | sed 's/^\["//; s/"\]$//')"
}

alone() {
    say "a private Postgres and Redis, as user $(last_stage USER)"
    environment=("${alone_environment[@]}" QUDAO_HOME=/var/lib/qudao/alone)
    asked=(echo)
    enter qudao doctor
    serve_and_ask /var/lib/qudao/alone "$root.alone.log" qudao serve --demo
}

case ${1:-} in
    --packages) root=$2; packages ;;
    --inside) root=$2 pulled=${3:-}; inside ;;
    "" | -*) die "usage: deploy/prove.sh ROOT [MODELS]" ;;
    *) outside "$(realpath -m "$1")" "${2:+$(realpath "$2")}" ;;
esac
