"""States of Meta-World's environments that no policy reaches soon: everything is put near something else.

Rewards read positions, and change where two things are near, far, above or beside each other. So instead of letting
physics run, each step puts all that a task reads at random: at one of the places that matter, from tenths of a
millimetre to tens of centimetres away, along some axes or all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mtrl.envs.metaworld.tasks.base import COMMON_PROBES, TaskSpec

Array = NDArray[np.float64]


def scatter_steps(environment: Any, spec: TaskSpec, rng: np.random.Generator, patch: pytest.MonkeyPatch) -> None:
    """Let each of the environment's steps scatter what the task reads, in place of physics, while the patch lasts."""
    observe, step, before = environment._get_obs, environment.step, environment.data.qpos.copy()
    scatter = _scatterer(environment, spec, rng)

    def observe_scattered() -> Array:
        scatter()
        return observe()

    def step_scattered(action: Any) -> Any:
        last_frame = environment._prev_obs
        while True:
            try:
                with np.errstate(all="ignore"):
                    return step(action)
            except ValueError:  # Meta-World refuses what cannot be, such as a box without a volume
                environment._prev_obs = last_frame

    # Meta-World's step calls `mj_forward` in between, which puts back all that follows from the joints.
    patch.setattr(environment, "do_simulation", lambda *_, **__: np.copyto(environment.data.qpos, before))
    patch.setattr(environment, "_get_obs", observe_scattered)
    patch.setattr(environment, "step", step_scattered)


def _scatterer(environment: Any, spec: TaskSpec, rng: np.random.Generator) -> Callable[[], None]:
    probes = {name: probe for name, probe in spec.all_probes.items() if not probe.startswith("touching.")}
    views = {name: _view(environment.data, probe) for name, probe in probes.items()}
    starts = {name: view.copy() for name, view in views.items()}
    robot = [name for name, probe in probes.items() if COMMON_PROBES.get(name) == probe]
    objects = [name for name in views if name not in robot]
    middle = (starts["left_tip"] + starts["right_tip"]) / 2
    constants = (environment._target_pos, environment.obj_init_pos, environment.init_tcp)
    places = [np.array(place) for place in constants if np.shape(place) == (3,)]

    def near(choices: list[Array]) -> Array:
        along, most_often_the_first = rng.random(3) < 0.7, int(len(choices) * rng.random() ** 2)
        return choices[most_often_the_first] + 10 ** rng.uniform(-3.5, -0.3) * rng.normal(size=3) * along

    def scatter() -> None:
        known = list(places)
        for name in sorted(objects, key=lambda name: views[name].size == 3):
            view = views[name]
            if view.size == 1:
                view[:] = starts[name] + 10 ** rng.uniform(-3, 0.3) * rng.normal()
            elif view.size == 3:
                view[:] = near([*known, starts[name]])
                known.append(view.copy())
            elif rng.random() < 0.7:
                turn = Rotation.random(rng=rng)
                x, y, _, _ = turn.as_quat()
                view[:] = turn.as_matrix().flatten() if view.size == 9 else turn.as_quat()
                known.insert(0, np.array([y, x, y]))  # the stick tasks' first reward takes x and y for a place
        place, width, apart = near([*known, middle]), rng.uniform(0, 1.2), 10 ** rng.uniform(-4, -1)
        for name in robot:
            views[name][:] = place + width * (starts[name] - middle) + apart * rng.normal(size=3)

    return scatter


def _view(data: Any, probe: str) -> Array:
    """The simulator's own numbers of a probe."""
    scope, _, rest = probe.partition(".")
    name, _, quantity = rest.rpartition(".")
    return getattr(getattr(data, scope)(name), quantity)
