#!/bin/sh
# `docker run IMAGE mtrl train ...` and `docker run IMAGE train ...` mean the same.
[ "${1:-}" = mtrl ] && shift
exec mtrl "$@"
