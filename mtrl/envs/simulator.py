"""MuJoCo, imported whatever `MUJOCO_GL` says; a package that uses `mujoco` or `metaworld` imports this module first.

Those variables are for what draws, which looks at them itself (see `offscreen`).
"""

from mtrl.core.imports import import_despite

import_despite("mujoco", "MUJOCO_GL", "PYOPENGL_PLATFORM")
