"""No surgery: weighted task gradients are summed unchanged, for which one joint backward pass is usually enough."""

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
