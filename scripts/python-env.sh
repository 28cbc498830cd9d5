# Sourced: `python_env FOLDER FILE…` makes FOLDER a Python environment with what the requirement files pin.
#
# A build cache outlives the clone that filled it, and the programs of an environment name the clone's
# folder in their first line: one that was made elsewhere, or whose python is gone, is made anew.
python_env() {
    local folder=$1 requirements=() file; shift
    for file in "$@"; do requirements+=(-r "$file"); done
    if ! [ "$(cat "$folder/made-in" 2>/dev/null)" = "$PWD" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        python3 -m venv --clear "$folder"
        printf '%s\n' "$PWD" >"$folder/made-in"
    fi
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"
}
