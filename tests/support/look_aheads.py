"""A weighting that looks at what lies ahead, for tests of its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtrl.gradients import Context, Weighting
from mtrl.gradients.look_ahead import ESTIMATORS, LookAhead

WEIGHTS = torch.tensor([0.3, -0.2, 1.1], dtype=torch.float64)


class Probe(Weighting):
    """Fixed weights, and a look at what lies ahead in every update."""

    needs_look_ahead = True

    def __init__(self, examine: Callable[[LookAhead], Any]) -> None:
        super().__init__()
        self.examine, self.found = examine, []

    def update(self, context: Context) -> None:
        assert context.look_ahead is not None
        self.found.append(self.examine(context.look_ahead))

    def weights(self, context: Context) -> Tensor:
        return WEIGHTS.to(context.losses)


def derivatives(ahead: LookAhead) -> list[Tensor]:
    return [ahead.derivative(WEIGHTS, estimator) for estimator in ESTIMATORS]
