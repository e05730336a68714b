#!/usr/bin/env bash
# Installs mtrl and what headless MuJoCo needs on Debian 12, as root. Each RUN step of the image runs one part; the
# script also works without a container.
#
#   docker/mujoco/install.sh [PART]...     all three, in this order, where none is named
#
#   system         Debian's packages, and the folder /workspace, writable by all
#   dependencies   a virtual environment with all that mtrl needs, without mtrl itself
#   package        mtrl, and a check that frames can be drawn
#
#   PREFIX     the virtual environment (default /opt/mtrl)
#   EXTRAS     extras of the package to install (default video,surgery,statistics)
#   PIP_ARGS   further arguments for pip, such as another index for torch
set -euo pipefail

prefix=${PREFIX:-/opt/mtrl}
extras=${EXTRAS:-video,surgery,statistics}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

system() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends \
        python3 python3-venv gcc libc6-dev libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libosmesa6
    apt-get clean
    rm -rf /var/lib/apt/lists/*
    # Runs go into a volume: a new one gets the owner and the rights that its folder has in the image.
    install -d -m 1777 /workspace /workspace/runs
}

dependencies() {
    /usr/bin/python3 -m venv "$prefix"
    # The package without a module: pip reads from it what the real one needs.
    copy setup.cfg pyproject.toml
    touch "$copy/README.md"
    pip "${copy}[$extras]"
    "$prefix/bin/python" -c 'import torch; print("torch", torch.__version__, "for CUDA", torch.version.cuda)'
    du -sh "$prefix"
}

package() {
    copy setup.cfg pyproject.toml README.md LICENSE NOTICE mtrl
    pip --no-deps --force-reinstall "$copy"
    install -m 0755 "$here/entrypoint.sh" "$prefix/bin/mtrl-entrypoint"
    cd /
    for library in osmesa egl; do
        MUJOCO_GL=$library "$prefix/bin/python" "$here/smoke.py"
    done
    "$prefix/bin/python" -c "import metaworld, mtrl; print('mtrl', mtrl.__version__, 'is installed in $prefix')"
}

# Sources are copied, so that a build leaves nothing behind in them.
copy() {
    rm -rf "${copy:?}"/*
    for item in "$@"; do cp -R "$root/$item" "$copy/"; done
}

pip() {
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    "$prefix/bin/python" -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint "$root/constraints.txt" ${PIP_ARGS:-} "$@"
}

if [ "$(id -u)" -ne 0 ]; then
    echo "install.sh should be run as root. Found user number $(id -u)." >&2
    exit 2
fi
if [ $# -eq 0 ]; then set -- system dependencies package; fi
for part in "$@"; do
    case $part in
        system | dependencies | package) ;;
        *)
            echo "install.sh should be given system, dependencies or package. Found $part." >&2
            exit 2
            ;;
    esac
done
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
for part in "$@"; do "$part"; done
