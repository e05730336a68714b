"""Weights from SAC's temperatures: T softmax(−log α), more for tasks that are nearly solved (Yang et al. 2020).

A task whose policy is still random has a high temperature and gets less weight. The weights carry no gradient. Only
agents with a temperature for each task can use this weighting.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mtrl.gradients.base import Context, Weighting, WeightingConfig


@dataclass
class Config(WeightingConfig):
    kind: str = "softmax_temperature"


class SoftmaxTemperature(Weighting):
    takes_some_tasks = True
    needs_extras = ("log_alpha",)

    def weights(self, context: Context) -> Tensor:
        return context.softmax(-context.extras["log_alpha"].detach())


def build(config: Config, *, num_tasks: int) -> Weighting:
    return SoftmaxTemperature()
