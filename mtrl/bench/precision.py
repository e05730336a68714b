"""mtrl bench precision: how networks in bfloat16 affect the tasks' gradients, their conflicts, and the time."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from mtrl.bench import update
from mtrl.bench.report import interleaved, machine
from mtrl.core.memory import keep_freed_memory
from mtrl.core.types import Transitions
from mtrl.gradients.algebra import gramian, rows

KINDS = ("float32", "bfloat16")


def measure(quick: bool = False, tasks: int = 10, device: str = "cpu") -> dict[str, Any]:
    """Errors of tasks' gradients of shared parameters, relative to float64 with the same parameters and batch.

    `error` is the median of ‖g − g₆₄‖ / ‖g₆₄‖ over tasks. `signs` is the share of pairs of tasks whose inner product
    has another sign than in float64. `clear_signs` is this share among pairs whose cosine in float64 is beyond ±0.01.
    All three are medians over moments of a short run. `ms` is the time of a whole PCGrad update in milliseconds.
    """
    keep_freed_memory()
    learners = {kind: update.make_agent(tasks, "pcgrad", device, precision=kind) for kind in KINDS}
    torch.set_default_dtype(torch.float64)
    try:
        exact = update.make_agent(tasks, "pcgrad", device)
    finally:
        torch.set_default_dtype(torch.float32)
    replay = update.filled_replay(tasks, device)
    leader, found = learners["float32"], dict[tuple[str, str], list[tuple[float, float, float]]]()
    for _ in range(2 if quick else 10):
        for _ in range(2 if quick else 20):
            leader.update(replay.sample(update.BATCH, leader.generator))
        batch, noise = replay.sample(update.BATCH, leader.generator), leader.noise((tasks, update.BATCH))
        reference = _gradients(exact, leader, batch, noise)
        for kind, learner in learners.items():
            for part, blocks in _gradients(learner, leader, batch, noise).items():
                found.setdefault((kind, part), []).append(_compare(blocks, reference[part]))
    calls = {kind: update.updates(tasks, "pcgrad", device=device, precision=kind) for kind in KINDS}
    seconds = interleaved(calls, 3 if quick else 20)
    names = ("error", "signs", "clear_signs")
    table = [
        {"networks": kind, "part": part, "ms": 1e3 * median(seconds[kind])}
        | {name: median(values) for name, values in zip(names, zip(*figures, strict=True), strict=True)}
        for (kind, part), figures in found.items()
    ]
    return {"bench": "precision", "tasks": tasks, "device": device, "machine": machine(), "rows": table}


def _gradients(learner: Any, leader: Any, batch: Transitions, noise: Tensor) -> dict[str, list[Tensor]]:
    """The per-task gradients of critics and actor at the leader's parameters, in blocks (T, n) for each tensor."""
    for name in ("actor", "critic", "target"):
        getattr(learner, name).load_state_dict(getattr(leader, name).state_dict())
    dtype = next(learner.actor.parameters()).dtype
    batch = batch._replace(**{name: getattr(batch, name).to(dtype) for name in Transitions._fields[:5]})
    alpha, noise = leader.log_alpha.detach().exp().unsqueeze(-1).to(dtype), noise.to(dtype)
    parts = {"critic": (learner.critic, learner.critic_losses, learner.critic_batch(batch, alpha, noise))}
    parts |= {"actor": (learner.actor, learner.actor_losses, learner.actor_batch(batch, alpha, noise))}
    found = {}
    for name, (network, losses, data) in parts.items():
        leaves = network.per_task_leaves()
        total = losses(leaves, *network.tensors[1:], data)[0].sum()
        gradients = torch.autograd.grad(total, list(leaves.values()))
        found[name] = [block for g in gradients for block in rows(g, network.ensemble)]
    return found


def _compare(blocks: list[Tensor], exact: list[Tensor]) -> tuple[float, float, float]:
    """(error, signs, clear_signs) of gradients in blocks (T, n), and of their inner products."""
    pairs = [(block.double(), other) for block, other in zip(blocks, exact, strict=True)]
    off = torch.stack([(a - b).square().sum(1) for a, b in pairs]).sum(0)
    size = torch.stack([b.square().sum(1) for _, b in pairs]).sum(0)
    gram, true = gramian(blocks).double(), gramian(exact)
    first, second = torch.triu_indices(len(gram), len(gram), 1)
    wrong = (gram.sign() != true.sign())[first, second]
    norms = true.diagonal().sqrt()
    clear = ((true / (norms.unsqueeze(0) * norms.unsqueeze(1))).abs() > 0.01)[first, second]
    share = wrong[clear].double().mean().item() if clear.any() else 0.0
    return (off / size).sqrt().median().item(), wrong.double().mean().item(), share
