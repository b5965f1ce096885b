#!/usr/bin/env bash
# Install Apptainer on Debian or Ubuntu, as root: make system-apptainer
# A release without an apptainer package gets the one of Debian unstable, with the C library that it needs in a
# folder of its own, so that nothing else on the machine sees that library.
set -euo pipefail

packages=(
    ca-certificates  # https registries
    squashfs-tools   # mksquashfs writes the image file
    squashfuse       # mounts it where the kernel may not
    fuse2fs          # the same for ext3 overlays
    uidmap           # newuidmap: several users inside an unprivileged build
)
libraries=/usr/lib/apptainer-libraries

fail() {
    echo "make system-apptainer: $*" >&2
    exit 1
}

lacks_sys_resource() { # containers and virtual machines may withhold it even from root
    local mask
    mask=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    ((!(0x$mask >> 24 & 1)))
}

install_from_unstable() {
    local scratch options triplet
    triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir -p "$scratch"/{lists/partial,cache/archives/partial,apptainer,libraries}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian unstable main" \
        >"$scratch/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update || fail "Debian's package archive can't be reached: apptainer is needed from it"
    (cd "$scratch" && apt-get "${options[@]}" download apptainer libc6 libseccomp2 libsqlite3-0)
    dpkg-deb -x "$scratch"/apptainer_*.deb "$scratch/apptainer"
    for package in libc6 libseccomp2 libsqlite3-0; do
        dpkg-deb -x "$scratch/$package"_*.deb "$scratch/libraries"
    done
    mkdir -p "$libraries"
    cp -a "$scratch/libraries/usr/lib/$triplet"/. "$libraries/"
    for program in usr/bin/apptainer "usr/lib/$triplet/apptainer/bin/starter"; do
        patchelf --set-interpreter "$(ls "$libraries"/ld-linux*.so.*)" "$scratch/apptainer/$program"
        patchelf --force-rpath --set-rpath "$libraries" "$scratch/apptainer/$program"
    done
    cp -a "$scratch/apptainer"/. /
}

[ "$(uname -s)" = Linux ] || fail "Apptainer runs on Linux only, and this is $(uname -s)"
if command -v apptainer >/dev/null; then
    echo "$(apptainer --version) is there"
    exit 0
fi
command -v apt-get >/dev/null || fail "no apt-get here; https://apptainer.org/docs/admin/latest says how to install it"
[ "$(id -u)" = 0 ] || fail "needs root: sudo make system-apptainer, or ask the administrator for Apptainer >= 1.2"

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || fail "the Debian package archive can't be reached"
if apt-cache policy apptainer | grep -q 'Candidate: [0-9]'; then
    apt-get -qq install --yes --no-install-recommends apptainer "${packages[@]}"
else
    # patchelf: points the unpacked programs to their own C library
    apt-get -qq install --yes --no-install-recommends patchelf "${packages[@]}"
    install_from_unstable
fi

if lacks_sys_resource; then
    sed -i 's/^root default capabilities = .*/root default capabilities = no/' /etc/apptainer/apptainer.conf
    for file in /etc/subuid /etc/subgid; do # lets containers/build_image.sh map the users of an image
        grep -q '^root:' "$file" 2>/dev/null || echo 'root:0:65536' >>"$file"
    done
fi
apptainer --version
