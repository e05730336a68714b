"""No surgery: the task gradients are summed as they are, by one joint backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl.gradients.base import Surgery


@dataclass
class Config:
    kind: str = "none"


def build(config: Config, *, num_tasks: int) -> Surgery | None:
    return None
