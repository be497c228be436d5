#!/usr/bin/env bash
# Installs what benchmarks compare with, as far as this Debian has it; no part of setup.
set -eu

missing=()
for package in borgbackup restic casync bup zstd vdo qemu-utils fio; do
    dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' && continue
    if [ -n "$(apt-cache --quiet=0 search --names-only "^$package\$" 2>/dev/null)" ]; then
        missing+=("$package")
    else
        echo "bench-peers: there is no Debian package $package here" >&2
    fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=(env)
[ "$(id -u)" -eq 0 ] || as_root=(sudo env)
echo "bench-peers: installing Debian packages: ${missing[*]}" >&2
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 install -y \
    --no-install-recommends "${missing[@]}" >/dev/null
