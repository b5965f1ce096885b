#!/usr/bin/env bash
# Build containers/archbench.sif from apptainer.def: make image. An image of the same definition and lock stays.
# Arguments go to `apptainer build`, such as --build-arg FROM=… or --bind /etc/ssl/certs (make image IMAGE_ARGS=…).
set -euo pipefail
cd "$(dirname "$0")/.."
image=containers/archbench.sif
fast=(-comp zstd -Xcompression-level 3) # a third of gzip's time, and read faster

fail() {
    echo "make image: $*" >&2
    exit 1
}

lacks_sys_resource() { # then root can't build as root, but as root of a user namespace
    local mask
    mask=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    [ "$(id -u)" = 0 ] && ((!(0x$mask >> 24 & 1)))
}

command -v apptainer >/dev/null || fail "apptainer is missing: make system-apptainer installs it (Debian, as root);" \
    "elsewhere see containers/README.md"

recipe=$(cat apptainer.def requirements.lock containers/install_environment.sh containers/check_environment.py |
    sha256sum | cut -d ' ' -f 1)
if [ -f "$image" ] && apptainer inspect --labels "$image" 2>/dev/null | grep -q "archbench.recipe-sha256: $recipe"; then
    echo "$image is up to date with apptainer.def and requirements.lock"
    exit 0
fi

build=(apptainer build --force --build-arg "RECIPE_SHA256=$recipe" --mksquashfs-args "${fast[*]}")
if lacks_sys_resource; then
    build=(unshare --user --map-users=0,0,65536 --map-groups=0,0,65536 --mount "${build[@]}")
fi
echo "building $image from requirements.lock: some minutes, and 7 GB in ${APPTAINER_TMPDIR:-${TMPDIR:-/tmp}}"
"${build[@]}" "$@" "${image%.sif}.partial.sif" apptainer.def
mv "${image%.sif}.partial.sif" "$image"
echo "$image: $(du -h "$image" | cut -f 1)"
