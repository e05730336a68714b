"""No surgery: the task gradients are summed as they are, by one joint backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl.gradients.base import Surgery


@dataclass
class Config:
    kind: str = "none"


class NoSurgery(Surgery):
    needs_gradients = False


def build(config: Config, *, num_tasks: int) -> Surgery:
    return NoSurgery()
