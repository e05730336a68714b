"""Counts the parameters of each architecture on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.experiment.config import compose
from mtrl.experiment.parts import Experiment
from mtrl.networks import DENSE_NETWORKS, IMAGE_NETWORKS, NETWORKS, TaskNetwork


def parameter_counts(benchmark: str, what: str | None = None, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Numbers of trained parameters: a row for every architecture that fits a benchmark.

    For an agent with an actor and critics, a row has `actor`, the sum of `shared` and `owned`, and `critics`, the
    parameters of all critics together. For an agent with one network, it has `parameters`, the sum of `shared` and
    `owned`.

    what: None, networks, or the first option. Every architecture must have all options.

    Raises:
        UserError: the networks of the benchmark cannot be compared, or `what` is something else.
    """
    options = [what, *options] if what and what not in ("network", "networks") else options
    for word in (word for word in options if word.partition("=")[0] in ("benchmark", "network")):
        raise expected("Options of networks", "without network= and benchmark=, since all networks are compared", word)
    usual = compose([f"benchmark={benchmark}", "device=cpu"])
    if usual.network.kind in NETWORKS.kinds:
        return [_actor_and_critics(kind, benchmark, options) for kind in NETWORKS.kinds]
    of_pictures = {"supervised": IMAGE_NETWORKS, "dense": DENSE_NETWORKS}
    check(usual.agent.kind in of_pictures, "--benchmark", "one whose networks can be compared", benchmark)
    return [_of_pictures(kind, benchmark, options) for kind in of_pictures[usual.agent.kind].kinds]


def _experiment(kind: str, benchmark: str, options: Sequence[str]) -> Experiment:
    return Experiment(compose([f"benchmark={benchmark}", f"network={kind}", "device=cpu", *options]))


def _sizes(network: TaskNetwork) -> dict[str, int]:
    shared, own = (sum(p.numel() for p in tensors.values()) for tensors in (network.shared, network.own))
    return {"shared": shared, "owned": own}


def _actor_and_critics(kind: str, benchmark: str, options: Sequence[str]) -> dict[str, Any]:
    experiment = _experiment(kind, benchmark, options)
    agent, network = experiment.agent, experiment.config.network
    sizes = _sizes(agent.actor)
    row = {"kind": kind, "width": network.width, "depth": network.depth, "actor": sum(sizes.values()), **sizes}
    return row | {"critics": sum(p.numel() for p in agent.critic.parameters())}


def _of_pictures(kind: str, benchmark: str, options: Sequence[str]) -> dict[str, Any]:
    sizes = _sizes(_experiment(kind, benchmark, options).agent.network)
    return {"kind": kind, "parameters": sum(sizes.values()), **sizes}


def parameter_table(rows: Sequence[dict[str, Any]]) -> str:
    """The counts as lines for a terminal."""
    names = [name for name in rows[0] if name != "kind"]
    lines = [f"{'network':<20}" + "".join(f"{name:>12}" for name in names)]
    return "\n".join([*lines, *(f"{row['kind']:<20}" + "".join(f"{row[n]:>12,}" for n in names) for row in rows)])
