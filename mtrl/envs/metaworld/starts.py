"""Stores the first states of episodes: those that Meta-World's own ``reset`` would make.

The state after a reset depends only on the goal: to the last bit, it is the same whatever the earlier episodes were (a
test compares all tasks). So the reset, which takes at least 250 physics steps, is done only once for each goal. Later
episodes start from a copy of that state.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.envs.metaworld.models import make_physics_env
from mtrl.envs.metaworld.probes import read_constant
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, TaskSpec
from mtrl.envs.simulator import mujoco

INTEGRATION: Any = mujoco.mjtState.mjSTATE_INTEGRATION.value
"""The part of ``MjData`` from which physics continues exactly."""


@dataclass(frozen=True)
class Start:
    """The first state of an episode. S is the size of MuJoCo's state vector."""

    physics: NDArray[np.float64]
    """(S,): MuJoCo's state vector."""
    body_pos: NDArray[np.float64]
    """(bodies, 3): with `site_pos`, everything that a reset changes in the model."""
    site_pos: NDArray[np.float64]
    """(sites, 3)"""
    mocap: NDArray[np.float64]
    """(3,): the position to which the hand is pulled."""
    observation: NDArray[np.float64]
    """(39,)"""
    constants: dict[str, NDArray[np.float64]]
    """{name: value}: the task's constants; see `tasks.base`."""


Known = dict[tuple[str, bytes], Start]
"""{(task, goal's data): first state}"""


class Starts:
    """The first states of one task, made by one of Meta-World's environments.

    Args:
        goals: the goals from which episodes draw.
        known: a cache that is filled here and shared by all environments with the same goals. It takes about 4 kB per
            goal.
    """

    def __init__(self, spec: TaskSpec, goals: Sequence[Task], known: Known) -> None:
        self.spec, self.goals, self._known = spec, goals, known
        self.env = make_physics_env(spec.name, "v2")
        self.env.set_task(goals[0])

    @property
    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the task's constants."""
        return {name: value.shape for name, value in self.start(0).constants.items()}

    def start(self, goal: int) -> Start:
        """The first state of an episode with this goal, an index into `goals`. It is made on first use."""
        key = (self.spec.name, self.goals[goal].data)
        if key not in self._known:
            self._known[key] = self._make(goal)
        return self._known[key]

    def _make(self, goal: int) -> Start:
        env = self.env
        env.set_task(self.goals[goal])
        observation = reset_once(env)
        physics = np.empty(mujoco.mj_stateSize(env.model, INTEGRATION))
        mujoco.mj_getState(env.model, env.data, physics, INTEGRATION)
        return Start(
            physics=physics,
            body_pos=env.model.body_pos.copy(),
            site_pos=env.model.site_pos.copy(),
            mocap=env.data.mocap_pos[0].copy(),
            observation=observation,
            constants={name: read_constant(env, source) for name, source in self.spec.all_constants.items()},
        )


def reset_once(env: Any) -> NDArray[np.float64]:
    """Do in half the time what ``env.reset()`` does. Returns the first observation (39,).

    Meta-World's reset calls ``reset_model`` twice, with ``mj_resetData`` in between. Only the positions of bodies and
    sites remain from the first call, and these are the same after one step of the hand as after fifty.
    """
    move = env._reset_hand
    env._reset_hand = functools.partial(move, steps=1)
    try:
        env.reset_model()
    finally:
        del env._reset_hand
    mujoco.mj_resetData(env.model, env.data)
    observation = np.array(env.reset_model(), dtype=np.float64)
    observation[CURRENT_SIZE : 2 * CURRENT_SIZE] = observation[:CURRENT_SIZE]
    return observation
