#!/bin/sh
# Run while an image is built, by apptainer.def and containers/Dockerfile alike: install requirements.lock, all of it
# and nothing else, into /opt/archbench/venv. A folder bound to /mnt meanwhile may hold pip's settings, a certificate
# and wheels; it leaves no trace.
set -eu
cd /opt/archbench

# Debian packages, each only where the base image lacks it.
missing=""
# ca-certificates: https to the package index, and to where pretrained weights are
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
# python3, python3-venv: the interpreter, where the base isn't an image of Python
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3 python3-venv"
if [ -n "$missing" ]; then
    apt-get -qq update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $missing
    rm -rf /var/lib/apt/lists/*
fi

[ ! -e /mnt/pip.conf ] || export PIP_CONFIG_FILE=/mnt/pip.conf

python3 -m venv venv
# Compiled afterwards, on all cores: the image is read-only, so that nobody could do it later.
venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --disable-pip-version-check --progress-bar off \
    --requirement requirements.lock
venv/bin/python -m compileall -q -j 0 venv/lib >/dev/null || true # some packages ship templates that aren't Python

# ONNX Runtime finds the CUDA libraries that torch brings as wheels by the linker's cache.
find "$PWD"/venv/lib -type d -path '*/site-packages/nvidia/*/lib' >/etc/ld.so.conf.d/archbench.conf
ldconfig

sha256sum requirements.lock | cut -d ' ' -f 1 >lock.sha256
