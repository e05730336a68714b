"""The arrays of N copies of each of T tasks, and the parts of a step before and after the physics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.envs.metaworld.arithmetic import CURRENT, PREVIOUS, RESULT_SIZE
from mtrl.envs.metaworld.physics import CONTROLS, SOUND
from mtrl.envs.metaworld.tasks.base import OBSERVATION_SIZE

NEVER = np.iinfo(np.int64).max // 2
"""More steps than any episode has."""


class Episodes:
    """The engine's state of each copy, apart from physics.

    A copy is parked once it has played all of its scheduled episodes. `native` does the same in C as `begin` and `end`.
    Only the commands and the status of parked copies differ, and these have no effect.

    Args:
        envs: Meta-World's environment of each task, which gives the scale of actions and the hand's limits.
        copies: N.
        terminate: whether an episode terminates at success.
        steps_after_success: how many steps an episode still lasts after a success; None: until its horizon.
    """

    def __init__(self, envs: Sequence[Any], copies: int, terminate: bool, steps_after_success: int | None) -> None:
        grid = len(envs), copies
        self.action = np.zeros((*grid, 4), np.float32)
        # (T, N, CONTROLS): the position to which the hand is pulled (3), and the controls of the two fingers.
        self.controls = np.zeros((*grid, CONTROLS))
        self.scale = np.array([env.action_scale for env in envs], np.float32)[:, None, None]
        self.low = np.array([env.mocap_low for env in envs], np.float64)[:, None]
        self.high = np.array([env.mocap_high for env in envs], np.float64)[:, None]
        self.observation = np.zeros((*grid, OBSERVATION_SIZE))
        # Arrays that are written together are adjacent in memory: many attributes are views of `result` or `ends`.
        self.result = np.zeros((*grid, RESULT_SIZE))
        self.next_observation = self.result[..., :OBSERVATION_SIZE]
        self.outcome = np.moveaxis(self.result[..., OBSERVATION_SIZE:], -1, 0)
        self.reward = self.outcome[0]
        self.ends = np.zeros((4, *grid), np.bool_)
        self.terminated, self.truncated, self.success, self.failed = self.ends
        self.status = np.full(grid, SOUND, np.int8)
        # Steps taken in the episode, the step at which it is truncated, its goal's index, goals taken, failures.
        self.elapsed, self.last, self.goal, self.played, self.faults = (np.zeros(grid, np.int64) for _ in range(5))
        self.parked = np.zeros(grid, np.bool_)
        # Whether an episode terminates at success, and how many steps it lasts after one.
        self.rules = np.array([terminate, NEVER if steps_after_success is None else steps_after_success], np.int64)

    def begin(self) -> None:
        """Before physics: compute the commands for `action`, reset the status, keep the last frame as `PREVIOUS`.

        As in Meta-World's ``set_xyz_action``, the clipped and scaled action is float32, and its sum with the position
        float64.
        """
        position = self.controls[..., :3]
        position += np.minimum(np.maximum(self.action[..., :3], -1.0), 1.0) * self.scale
        np.minimum(np.maximum(position, self.low, out=position), self.high, out=position)
        self.controls[..., 3] = self.action[..., 3]
        self.controls[..., 4] = -self.action[..., 3]
        self.status[...] = SOUND
        self.result[..., PREVIOUS] = self.observation[..., CURRENT]

    def end(self) -> int:
        """After physics: decide which episodes end, and how. Returns how many do. Parked copies do not change."""
        (terminate, after), playing = self.rules, ~self.parked
        np.not_equal(self.outcome[1], 0.0, out=self.success, where=playing)
        self.elapsed += playing
        np.minimum(self.last, self.elapsed + after, out=self.last, where=self.success & playing)
        np.greater_equal(self.elapsed, self.last, out=self.truncated)
        np.not_equal(self.status, SOUND, out=self.failed)
        if self.failed.any() or not math.isfinite(self.result.sum()):
            self._fail()
        np.logical_and(self.success, terminate, out=self.terminated)
        np.copyto(self.observation, self.next_observation, where=playing[..., None])
        self.ends &= playing
        return int(np.count_nonzero(self.terminated | self.truncated))

    def _fail(self) -> None:
        self.failed |= ~np.isfinite(self.result).all(-1)
        self.failed &= ~self.parked
        self.faults += self.failed
        self.next_observation[self.failed] = self.observation[self.failed]
        self.reward[self.failed] = 0.0
        self.success[self.failed] = False
        self.truncated |= self.failed

    def rest(self) -> None:
        """Set what a step returns for parked copies: zero reward, no end of an episode, and the last observation."""
        self.reward[self.parked] = 0.0
        self.ends[:, self.parked] = False
        self.next_observation[self.parked] = self.observation[self.parked]

    def arrays(self, t: int) -> dict[str, Any]:
        """The arrays of task t that a step in C reads and writes (see `native`). They are never reallocated."""
        ends = ("terminated", "truncated", "success", "failed", "elapsed", "last", "faults")
        names = ("controls", "scale", "low", "high", "observation", *ends)
        return {name: getattr(self, name)[t] for name in names} | {"rules": self.rules}
