# await SECONDS "what" command…: waits until the command succeeds, fails loudly when it never does.
await() {
    local limit=$1 what=$2 begun=$SECONDS; shift 2
    until "$@" 2>/dev/null; do
        if [ $((SECONDS - begun)) -ge "$limit" ]; then
            echo "waited $limit s for $what" >&2
            return 1
        fi
        sleep 0.2
    done
}
