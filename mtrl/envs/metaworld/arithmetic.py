"""Observations and rewards of all copies of one task, on arrays that the engine owns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.envs.metaworld.starts import Start
from mtrl.envs.metaworld.tasks.base import (
    CURRENT_SIZE,
    Inputs,
    Outcome,
    RewardVersion,
    TaskSpec,
    evaluate,
    write_current,
    write_observation,
)


class TaskArithmetic:
    """N copies of one task.

    Args:
        probes: {name: view (N, ...)} of the numbers that the physics gathers.
        low, high: (39,) bounds of the observation.
        action, observation: (N, 4) and (N, 39), views of the engine's arrays; observations are written.
        example: any first state, for the shapes of the constants.
    """

    def __init__(
        self,
        spec: TaskSpec,
        version: RewardVersion,
        probes: dict[str, Any],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        action: NDArray[np.float32],
        observation: NDArray[np.float64],
        example: Start,
    ) -> None:
        copies = len(action)
        self._spec, self._version, self._low, self._high = spec, version, low, high
        self._observation = observation
        self.frame = np.zeros((copies, CURRENT_SIZE))
        self._previous = np.zeros((copies, CURRENT_SIZE))
        self._constants = {name: np.zeros((copies, *value.shape)) for name, value in example.constants.items()}
        self.state = {name: np.full(copies, np.nan) for name in spec.state}
        self._inputs = Inputs({**probes, **self._constants, **self.state}, observation, action)
        spec.reward(version)

    def begin(self, n: int, start: Start) -> None:
        """Put copy n at the first observation of an episode."""
        self.frame[n] = start.observation[:CURRENT_SIZE]
        self.constants_of(n, start)
        for value in self.state.values():
            value[n] = np.nan

    def constants_of(self, n: int, start: Start) -> None:
        for name, value in start.constants.items():
            self._constants[name][n] = value

    def evaluate(self) -> Outcome:
        """Write the observations that follow from the probes, and return the rewards and what goes with them."""
        self._previous[...] = self.frame
        inputs = self._inputs
        write_current(np, self._spec, inputs, self.frame)
        write_observation(np, self.frame, self._previous, inputs.target, self._low, self._high, self._observation)
        return evaluate(np, self._spec, inputs, self._version)
