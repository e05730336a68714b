#!/usr/bin/env bash
# Installs CoppeliaSim 4.1, PyRep and RLBench at fixed commits, and mtrl, on Ubuntu 22.04, as root. It is the image's
# one RUN step, and also works without a container.
#
#   docker/rlbench/install.sh [PREFIX]     PREFIX: the virtual environment to create (default /opt/mtrl)
#
#   COPPELIASIM_ROOT     where the simulator goes (default /opt/coppeliasim); it writes there when it runs
#   SMOKE                0: do not try the simulator at the end
#   COPPELIASIM_ARCHIVE  its archive, a URL or a file: CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz; in the image's
#                        build, a file must be under docker/, and is named /source/docker/NAME
#   PIP_ARGS             further arguments for pip, such as another index for torch
#   MTRL_USER            where set: create this user (number 1000), with the folder /workspace
#
# CoppeliaSim's educational edition and RLBench have licences of their own, which allow non-commercial use only: read
# them first. Nothing of either is part of this project.
#
# TESTED: the scripts' syntax (bash -n, shellcheck); at these commits, with PyRep's compiled module replaced, mtrl's
# adapter against RLBench's own Python classes, and RLBench's own reader on demonstrations that mtrl wrote. NOT TESTED:
# the build of this image, CoppeliaSim itself, live episodes.
set -euo pipefail

PYREP_COMMIT=8f420be8064b1970aae18a9cfbc978dfb15747ef
RLBENCH_COMMIT=02720bba4c73fe02eb75df946b8791b806028a9d

prefix=$(realpath --canonicalize-missing "${1:-/opt/mtrl}")
COPPELIASIM_ROOT=$(realpath --canonicalize-missing "${COPPELIASIM_ROOT:-/opt/coppeliasim}")
export COPPELIASIM_ROOT
archive=${COPPELIASIM_ARCHIVE:-https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ "$(id -u)" -ne 0 ]; then
    echo "install.sh should be run as root. Found user number $(id -u)." >&2
    exit 2
fi

# python3.11: Ubuntu 22.04's own 3.10 is too old for mtrl. The others: a compiler for PyRep, what downloads and unpacks,
# a virtual X server, software OpenGL, and what CoppeliaSim and its Qt plug-in for X load.
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends \
    python3.11 python3.11-venv python3.11-dev gcc g++ git curl ca-certificates xz-utils \
    xvfb xauth libgl1 libgl1-mesa-dri libglx-mesa0 libegl1 libglu1-mesa \
    libglib2.0-0 libdbus-1-3 libfontconfig1 libfreetype6 libxkbcommon-x11-0 libx11-xcb1 libxcb1 libxcb-icccm4 \
    libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-render0 libxcb-shape0 libxcb-shm0 \
    libxcb-sync1 libxcb-xfixes0 libxcb-xinerama0 libxcb-xkb1 libxi6 libxrender1 libxext6 libsm6 libice6 \
    libavcodec58 libavformat58 libswscale5 liblua5.1-0
rm -rf /var/lib/apt/lists/*

mkdir -p "$COPPELIASIM_ROOT"
if [ -f "$archive" ]; then
    tar --extract --xz --file "$archive" --directory "$COPPELIASIM_ROOT" --strip-components 1
else
    curl --fail --location --silent --show-error "$archive" \
        | tar --extract --xz --directory "$COPPELIASIM_ROOT" --strip-components 1
fi
# Without Qt's plug-ins and libraries from the simulator itself, every frame comes out black.
export LD_LIBRARY_PATH=$COPPELIASIM_ROOT${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export QT_QPA_PLATFORM_PLUGIN_PATH=$COPPELIASIM_ROOT QT_PLUGIN_PATH=$COPPELIASIM_ROOT

source_copy=$(mktemp -d)
trap 'rm -rf "$source_copy"' EXIT
for item in setup.cfg pyproject.toml README.md LICENSE NOTICE mtrl; do
    if [ -e "$root/$item" ]; then cp -R "$root/$item" "$source_copy/"; fi
done
for repository in PyRep RLBench; do
    commit=$([ "$repository" = PyRep ] && echo "$PYREP_COMMIT" || echo "$RLBENCH_COMMIT")
    git init --quiet "$source_copy/$repository"
    git -C "$source_copy/$repository" fetch --quiet --depth 1 "https://github.com/stepjam/$repository.git" "$commit"
    git -C "$source_copy/$repository" checkout --quiet FETCH_HEAD
done

python3.11 -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip install --no-cache-dir --disable-pip-version-check "$@"; }
# shellcheck disable=SC2086  # PIP_ARGS is a list of words
pip --constraint "$root/constraints.txt" ${PIP_ARGS:-} "${source_copy}[video,surgery]"
# mtrl never asks for masks, the one part of RLBench that NumPy 2 breaks. RLBench names no commit of PyRep: hence
# --no-deps below, and their dependencies are named here.
# shellcheck disable=SC2086
pip --constraint "$root/constraints.txt" ${PIP_ARGS:-} cffi setuptools wheel scipy pyquaternion natsort
# shellcheck disable=SC2086
pip --no-build-isolation --no-deps ${PIP_ARGS:-} "$source_copy/PyRep" "$source_copy/RLBench"
install -m 0755 "$here/entrypoint.sh" "$prefix/bin/mtrl-rlbench"
install -D "$here/smoke.py" "$prefix/share/smoke.py"

cd /
if [ "${SMOKE:-1}" != 0 ]; then
    xvfb-run --auto-servernum --server-args "-screen 0 1280x1024x24" "$prefix/bin/python" "$here/smoke.py"
fi

# After the smoke script: the simulator writes into its own folder, and what root wrote there must belong to the user.
if [ -n "${MTRL_USER:-}" ]; then
    useradd --uid 1000 --user-group --home-dir /workspace --no-create-home --shell /bin/bash "$MTRL_USER"
    install -d -m 1777 -o "$MTRL_USER" -g "$MTRL_USER" /workspace
    chown -R "$MTRL_USER" "$COPPELIASIM_ROOT"
fi
