#!/usr/bin/env bash
# install.sh ROOT: lays out what `make build` made below ROOT, as a package would. Again over an
# older one: programs and plugins are replaced, settings are the operator's and stay.
set -euo pipefail
root=${1:?usage: deploy/install.sh ROOT}
cd "$(dirname "$0")/.."
install -D -m 0755 -t "$root/usr/bin" target/release/qudao target/release/qudao-plugin-host
mkdir -p "$root/usr/share/qudao"
rm -rf "$root/usr/share/qudao/plugins"
cp -r dist/plugins "$root/usr/share/qudao/plugins"
[ -e "$root/etc/qudao/qudao.toml" ] || install -D -m 0644 -t "$root/etc/qudao" config/qudao.toml
install -D -m 0644 deploy/qudao.service "$root/usr/lib/systemd/system/qudao.service"
