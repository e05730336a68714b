"""GCS: an auxiliary task's gradient is used only where it helps the primary ones (Du et al. 2018, unweighted).

c_i = 1 for a primary task; for another, 1 where its inner product with the sum of the primary gradients is positive,
else 0. Without a choice of primary tasks nothing is auxiliary, so one is required.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from mtrl.gradients.base import Surgery, SurgeryConfig


@dataclass
class Config(SurgeryConfig):
    kind: str = "gcs"
    primary: list[str] = field(default_factory=list)
    """Names or indexes of the tasks that count."""
    requires_primary: ClassVar[bool] = True


class GCS(Surgery):
    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        helps = gramian @ primary.to(gramian) > 0
        return (primary | helps).to(gramian)


def build(config: Config, *, num_tasks: int) -> Surgery:
    return GCS()
