"""No diagnostics beyond what an update tells for free."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl.gradients.base import Diagnostic


@dataclass
class Config:
    kind: str = "none"


def build(config: Config, *, num_tasks: int, part: str | None) -> Diagnostic | None:
    return None
