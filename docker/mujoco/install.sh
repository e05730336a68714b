#!/usr/bin/env bash
# Installs mtrl and what headless MuJoCo needs on Debian 12, as root; the image's one RUN step, and usable without it.
#
#   docker/mujoco/install.sh [PREFIX]     PREFIX: the virtual environment to create (default /opt/mtrl)
#
#   EXTRAS     extras of the package to install (default video,surgery,statistics)
#   PIP_ARGS   further arguments for pip, such as another index for torch
#   MTRL_USER  where set: create this user (number 1000), with the folder /workspace, writable by all
set -euo pipefail

prefix=${1:-/opt/mtrl}
extras=${EXTRAS:-video,surgery,statistics}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ "$(id -u)" -ne 0 ]; then
    echo "install.sh should be run as root. Found user number $(id -u)." >&2
    exit 2
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends \
    python3 python3-venv gcc libc6-dev libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libosmesa6

# Built from a copy, so that a build leaves nothing behind in the sources.
source_copy=$(mktemp -d)
trap 'rm -rf "$source_copy"' EXIT
for item in setup.cfg pyproject.toml README.md LICENSE NOTICE mtrl; do
    if [ -e "$root/$item" ]; then cp -R "$root/$item" "$source_copy/"; fi
done

/usr/bin/python3 -m venv "$prefix"
# shellcheck disable=SC2086  # PIP_ARGS is a list of words
"$prefix/bin/python" -m pip install --no-cache-dir --disable-pip-version-check \
    --constraint "$root/constraints.txt" ${PIP_ARGS:-} "${source_copy}[$extras]"
install -m 0755 "$here/entrypoint.sh" "$prefix/bin/mtrl-entrypoint"

if [ -n "${MTRL_USER:-}" ]; then
    useradd --uid 1000 --user-group --home-dir /workspace --no-create-home --shell /bin/bash "$MTRL_USER"
    install -d -m 1777 -o "$MTRL_USER" -g "$MTRL_USER" /workspace
fi

cd /
for library in osmesa egl; do
    MUJOCO_GL=$library "$prefix/bin/python" "$here/smoke.py"
done
"$prefix/bin/python" -c "import metaworld, mtrl; print('mtrl', mtrl.__version__, 'is installed in $prefix')"
