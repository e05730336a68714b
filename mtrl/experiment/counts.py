"""How large each architecture is on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.networks import NETWORKS


def parameter_counts(benchmark: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For every architecture: its width and depth, and the trained numbers of actor and twin critics."""
    rows = []
    for kind in NETWORKS.kinds:
        experiment = Experiment(compose([f"benchmark={benchmark}", f"network={kind}", "device=cpu", *options]))
        actor, critic, network = experiment.agent.actor, experiment.agent.critic, experiment.config.network
        sizes = [sum(p.numel() for p in d.values()) for d in (actor.shared, actor.own)]
        critics = sum(p.numel() for p in critic.parameters())
        row = {"kind": kind, "width": network.width, "depth": network.depth, "actor": sum(sizes)}
        rows.append(row | {"shared": sizes[0], "owned": sizes[1], "critics": critics})
    return rows
