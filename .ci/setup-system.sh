#!/usr/bin/env bash
# Installs the Debian packages that building and testing need and that are missing; says nothing when none is.
set -eu

packages=(
    gcc libc6-dev python3-dev python3-venv          # the kernels are compiled, into a virtual environment
    libxxhash-dev libzstd-dev libdeflate-dev        # headers that setup.py looks for
    libseccomp2                                     # workers filter their system calls with it
    qemu-utils libnbd-bin e2fsprogs                 # the demo and the tests make disks, and let qemu-img judge them
    postgresql                                      # the tests: a ledger and catalogue outside of SQLite
    qemu-system-x86 busybox-static cpio             # the tests and demo-boot: a machine that boots from an image
    mount xz-utils zstd bzip2 lz4 strace            # the tests: loop devices, wrappers to be refused, kills of repair
    xfsprogs                                        # the tests: power cuts on a file system of their own
    valgrind                                        # the tests: instructions that kernels take
)

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

# BLAKE3: a package of its own where the distribution has one, else the C sources inside the Rust package.
blake3() {
    if pkg-config --exists libblake3 2>/dev/null || installed librust-blake3-dev; then
        return
    elif [ -n "$(apt-cache --quiet=0 search --names-only '^libblake3-dev$' 2>/dev/null)" ]; then
        echo libblake3-dev pkgconf
    else
        echo librust-blake3-dev
    fi
}

if ! command -v dpkg-query >/dev/null; then
    echo "setup: not a Debian system; install what these packages hold by hand: ${packages[*]}, and BLAKE3" >&2
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ] && [ -z "$(blake3)" ]; then
    exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=(env)
elif command -v sudo >/dev/null; then
    as_root=(sudo env)
else
    echo "setup: missing Debian packages, and neither root nor sudo to install them: ${missing[*]} $(blake3)" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1
}

echo "setup: installing Debian packages: ${missing[*]:-} $(blake3)" >&2
apt update || { tail -n 5 "$log" >&2; echo "setup: apt-get update failed; going on with the package lists there are" >&2; }
read -r -a more <<<"$(blake3)"  # again: the lists just read may know libblake3-dev
if ! apt install -y --no-install-recommends "${missing[@]}" "${more[@]}"; then
    tail -n 20 "$log" >&2
    echo "setup: apt-get could not install: ${missing[*]:-} ${more[*]:-}" >&2
    exit 1
fi
