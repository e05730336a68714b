"""Computes commands from actions: the position to which the hand is pulled, and the controls of the fingers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.physics import CONTROLS


class Commands:
    """The commands of N copies of each of T tasks, computed as in Meta-World's ``set_xyz_action``.

    Args:
        envs: Meta-World's environment of each task, which gives the scale of actions and the hand's limits.
        copies: N.
    """

    def __init__(self, envs: Sequence[Any], copies: int) -> None:
        self.controls = np.zeros((len(envs), copies, CONTROLS))
        """(T, N, CONTROLS): the commanded position of the hand (3), and the controls of the two fingers."""
        self._move = np.zeros((len(envs), copies, 3), np.float32)
        self._scale = np.array([env.action_scale for env in envs], np.float32)[:, None, None]
        self._low = np.array([env.mocap_low for env in envs], np.float64)[:, None]
        self._high = np.array([env.mocap_high for env in envs], np.float64)[:, None]

    def take(self, action: NDArray[np.float32]) -> None:
        """Move the commanded positions by actions (T, N, 4), and set the fingers' controls.

        As in Meta-World, the clipped and scaled action is float32, and the sum with the position float64.
        """
        move, position = self._move, self.controls[..., :3]
        np.maximum(action[..., :3], -1.0, out=move)
        np.minimum(move, 1.0, out=move)
        np.multiply(move, self._scale, out=move)
        np.add(position, move, out=position)
        np.maximum(position, self._low, out=position)
        np.minimum(position, self._high, out=position)
        self.controls[..., 3] = action[..., 3]
        np.negative(action[..., 3], out=self.controls[..., 4])

    def arrays(self, t: int) -> dict[str, NDArray[Any]]:
        """The arrays of task t that `take` reads and writes, without the action. They are never reallocated."""
        return {"controls": self.controls[t], "scale": self._scale[t], "low": self._low[t], "high": self._high[t]}
