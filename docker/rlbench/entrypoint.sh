#!/bin/sh
# Runs mtrl under a virtual X server, which CoppeliaSim needs even without a window.
[ "${1:-}" = mtrl ] && shift
exec xvfb-run --auto-servernum --server-args "-screen 0 1280x1024x24" mtrl "$@"
