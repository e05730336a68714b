"""Imports MuJoCo whatever `MUJOCO_GL` says: other modules get `mujoco` from here.

A package that uses `metaworld`, which imports MuJoCo itself, imports this module first.

The variable matters only for drawing, where it is read separately (see `offscreen`). The first few of MuJoCo's warnings
go to the log, instead of to the terminal and a file MUJOCO_LOG.TXT in the working folder.
"""

from __future__ import annotations

import logging
from typing import Any

from mtrl.core.imports import import_despite
from mtrl.core.limited import LimitedWarnings

mujoco: Any = import_despite("mujoco", "MUJOCO_GL", "PYOPENGL_PLATFORM")
_warn = LimitedWarnings(logging.getLogger(__name__))

if mujoco.get_mju_user_warning() is None:
    mujoco.set_mju_user_warning(lambda text: _warn("MuJoCo: %s", text))
