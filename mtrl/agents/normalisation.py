"""Running normalisation of observations and rewards.

Statistics are computed from transitions when these are stored: on the host, between updates, in float64. Updates read
tensors on the learner's device that change in place, so that a captured graph sees each change. A policy is saved and
loaded with its statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl.agents.base import AgentConfig
from mtrl.core.config import option
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Transitions
from mtrl.gradients.algebra import like


@dataclass
class NormalisationConfig(AgentConfig):
    normalise_observations: str = option("none", ("none", "shared", "per_task"))
    """Whether observations are normalised by running statistics: none, shared (over all tasks) or per_task. The mean of
    each entry is subtracted, and the difference is divided by the entry's standard deviation."""
    observation_clip: float = option(10.0, "positive")
    """Normalised observations are clipped to plus or minus this value."""
    observation_outliers: float | None = option(None, "positive")
    """Distance from the mean, in standard deviations, to which entries are clipped before they enter the running
    statistics; no limit if not given. Without a limit, an object that is flung away for a few steps raises its entries'
    standard deviations so much that all their other values are scaled to a narrow range."""
    normalise_rewards: bool = False
    """Whether rewards are divided by the running standard deviation of their task's discounted returns."""
    min_deviation: float = option(0.01, "positive")
    """Least standard deviation by which observations or rewards are divided."""


def merge(mean: Tensor, variance: Tensor, values: Tensor, share: Tensor, subset: TaskSubset) -> None:
    """Update means and variances (G, *shape) in place, for the S groups of `subset`, by n values each, (S, n, *shape).

    share (S,): the weight of the new values, in [0, 1]. If it is their share of all values so far, the result is exact
    (Chan, Golub & LeVeque 1983). If it is a constant, old values are forgotten exponentially.
    """
    before, spread, share = subset.gather(mean), subset.gather(variance), like(share, mean)
    apart = values.mean(1) - before
    within = values.var(1, correction=0) - spread
    subset.write(mean, before + share * apart)
    subset.write(variance, (spread + share * within + share * (1 - share) * apart.square()).clamp(min=0))


class RunningMoments:
    """Mean and variance (G, *shape) of all values so far in each of G groups, float64 on the CPU; 0 and 1 at first."""

    def __init__(self, groups: int, *shape: int) -> None:
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.mean = torch.zeros(groups, *shape, dtype=torch.float64)
        self.variance = torch.ones(groups, *shape, dtype=torch.float64)

    def add(self, values: Tensor, subset: TaskSubset = ALL_TASKS) -> None:
        """values (S, n, *shape): n values of each group in `subset`."""
        count = subset.gather(self.count) + values.shape[1]
        merge(self.mean, self.variance, values.double().cpu(), values.shape[1] / count, subset)
        subset.write(self.count, count)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


def _of(subset: TaskSubset, tensor: Tensor) -> Tensor:
    """The rows of a tensor (T, ..) for the tasks of a batch. A tensor (1, ..) is for all tasks, and stays as it is."""
    return tensor if len(tensor) == 1 else subset.gather(tensor)


class _Normaliser:
    """Holds the moments of each group, and the inverse standard deviations (G, 1, *shape) that updates multiply by."""

    def __init__(self, config: NormalisationConfig, moments: RunningMoments, device: torch.device) -> None:
        self._config, self.moments = config, moments
        self._scale = torch.ones_like(moments.mean, dtype=torch.get_default_dtype(), device=device).unsqueeze(1)

    def _publish(self) -> None:
        """Copy the statistics to the tensors that updates read."""
        scale = self.moments.variance.sqrt().clamp(min=self._config.min_deviation).reciprocal()
        self._scale.copy_(scale.unsqueeze(1), non_blocking=True)

    def state_dict(self) -> dict[str, Tensor]:
        return self.moments.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.moments.load_state_dict(state)
        self._publish()


class ObservationNormaliser(_Normaliser):
    """x -> (x − mean) / standard deviation, clipped to ± `observation_clip`, with running moments of each entry."""

    def __init__(self, config: NormalisationConfig, num_tasks: int, size: int, device: torch.device) -> None:
        self._per_task = config.normalise_observations == "per_task"
        super().__init__(config, RunningMoments(num_tasks if self._per_task else 1, size), device)
        self._mean = torch.zeros_like(self._scale)

    def __call__(self, observation: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """observation (T, B, O) of the tasks of `subset` -> the same shape."""
        limit = self._config.observation_clip
        return ((observation - _of(subset, self._mean)) * _of(subset, self._scale)).clamp(-limit, limit)

    def observe(self, transitions: Transitions) -> None:
        if self._per_task:
            self._add(transitions.observation, transitions.subset)
        else:
            self._add(transitions.observation.flatten(0, 1).unsqueeze(0), ALL_TASKS)
        self._publish()

    def _add(self, values: Tensor, subset: TaskSubset) -> None:
        limit, moments = self._config.observation_outliers, self.moments
        if limit is not None:
            mean = subset.gather(moments.mean).unsqueeze(1)
            deviation = subset.gather(moments.variance).unsqueeze(1).sqrt().clamp(min=self._config.min_deviation)
            known = like(subset.gather(moments.count) > 0, mean)  # first values are never outliers
            farthest = (limit * deviation).masked_fill(~known, torch.inf)
            values = values.double().cpu().clamp(mean - farthest, mean + farthest)
        moments.add(values, subset)

    def _publish(self) -> None:
        super()._publish()
        self._mean.copy_(self.moments.mean.unsqueeze(1), non_blocking=True)


class RewardNormaliser(_Normaliser):
    """r -> r / standard deviation of the task's discounted returns G ← γ G + r, over all steps of all environments.

    This is Gymnasium's `NormalizeReward` with statistics for each task. G restarts at zero after every episode, as in
    Gymnasium's vector wrapper where episodes restart in the same step; in its other wrappers G does not.
    """

    def __init__(self, config: NormalisationConfig, num_tasks: int, discount: float, device: torch.device) -> None:
        super().__init__(config, RunningMoments(num_tasks), device)
        self._discount, self._returns = discount, torch.zeros(0, dtype=torch.float64)

    def __call__(self, reward: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """reward (T, B) of the tasks of `subset` -> the same shape."""
        return reward * _of(subset, self._scale)

    def observe(self, transitions: Transitions) -> None:
        """Add one step (T, N) of the N environments of each task.

        If the environments run only some tasks at a time, these may change only when all episodes have ended.
        """
        assert transitions.truncated is not None
        reward = transitions.reward
        before = self._returns.to(reward.device) if len(self._returns) else torch.zeros_like(reward, dtype=torch.double)
        returns = self._discount * before + reward
        self.moments.add(returns, transitions.subset)
        self._returns = returns.masked_fill(transitions.terminated.bool() | transitions.truncated.bool(), 0)
        self._publish()

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"returns": self._returns.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict({name: value for name, value in state.items() if name != "returns"})
        self._returns = state["returns"].clone().cpu()
