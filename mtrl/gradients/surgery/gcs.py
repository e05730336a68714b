"""GCS: an auxiliary task's gradient is used only where it helps the primary ones (Du et al. 2018, unweighted).

The coefficient c_i is 1 for a primary task. For another task it is 1 if its inner product with the sum of the primary
gradients is positive, and 0 otherwise. At least one primary task must be named, as all are primary by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from mtrl.gradients.base import GramianConfig, Surgery


@dataclass
class Config(GramianConfig):
    kind: str = "gcs"
    primary: list[str] = field(default_factory=list)
    """Names or indexes of the primary tasks, at least one; the others are auxiliary."""
    requires_primary: ClassVar[bool] = True

    def primary_tasks(self) -> Sequence[str]:
        return self.primary


class GCS(Surgery):
    takes_some_tasks = False  # a batch may have no primary task

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        helps = gramian @ primary.to(gramian) > 0
        return (primary | helps).to(gramian)


def build(config: Config, *, num_tasks: int) -> Surgery:
    return GCS()
