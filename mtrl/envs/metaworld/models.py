"""Compiled Meta-World models, with and without visuals.

A model of Meta-World takes about 20 MB, nearly all of it for textures and visual meshes. MuJoCo's compiler drops
these (``discardvisual``) and keeps the bodies, joints and colliding geoms in their order, so that the physics is the
same to the last bit. The remaining 3 MB are two collision meshes of the robot. Such a model cannot be rendered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from mtrl.envs.simulator import mujoco


@functools.cache
def physics_model(path: str) -> Any:
    """The ``MjModel`` of an XML file, without visuals but with all named geoms. It is cached, so change only a copy."""
    spec: Any = mujoco.MjSpec.from_file(path)
    spec.compiler.discardvisual = True
    _drop_visual_meshes(spec)
    # The compiler keeps geoms to which other elements refer. This tuple refers to them, and has no other effect.
    names = [geom.name for geom in spec.geoms if geom.name]
    kinds = [mujoco.mjtObj.mjOBJ_GEOM] * len(names)
    spec.add_tuple(name="kept_geoms", objtype=kinds, objname=names, objprm=[0.0] * len(names))
    return spec.compile()


def _drop_visual_meshes(spec: Any) -> None:
    """Remove visual meshes and textures before the compiler reads them: the result is the same in a third of the time.

    Meshes from which a body's mass is inferred are kept.
    """
    mesh, sphere = mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_SPHERE
    for body in spec.bodies:
        for geom in body.geoms:
            geom.material = ""
            visual = not geom.contype and not geom.conaffinity and not geom.name
            if visual and body.explicitinertial and geom.type == mesh:
                geom.type, geom.meshname, geom.size = sphere, "", [0.01, 0.0, 0.0]
    used = {geom.meshname for geom in spec.geoms}
    unused = [part for part in spec.meshes if part.name not in used]
    for part in [*unused, *spec.materials, *spec.textures]:
        part.delete()


def whole_model(task: str) -> Any:
    """A copy of Meta-World's own ``MjModel`` of a task, including visuals."""
    name: Any = ALL_V3_ENVIRONMENTS[task].model_name
    return _whole_model(name.fget(None)).__copy__()


@functools.lru_cache(maxsize=1)
def _whole_model(path: str) -> Any:
    return mujoco.MjModel.from_xml_path(path)


@functools.cache
def _environment(task: str, model_of: Callable[[str], Any]) -> Any:
    """A subclass of the task's environment that copies a compiled model. Compiling one takes 0.3 s."""

    def _initialize_simulation(self: SawyerXYZEnv) -> tuple[Any, Any]:
        model = model_of(self.fullpath).__copy__()
        return model, mujoco.MjData(model)

    base = ALL_V3_ENVIRONMENTS[task]
    return type(base.__name__, (base,), {"_initialize_simulation": _initialize_simulation})


def make_env(task: str, reward_version: str) -> Any:
    """Meta-World's environment of ``task``. Call its ``set_task`` before ``reset``."""
    return _environment(task, _whole_model)(reward_function_version=reward_version)


def make_physics_env(task: str, reward_version: str) -> Any:
    """The same environment with the model without visuals. Its numbers are the same, but it cannot be rendered."""
    return _environment(task, physics_model)(reward_function_version=reward_version)
