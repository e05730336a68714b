"""Small agents on a replay that grows, for the tests of how updates run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.off_policy import OffPolicyActorCritic
from mtrl.core.specs import ControlSpec
from mtrl.core.types import Transitions
from mtrl.data.n_step import NStepReplay
from mtrl.data.replay import ReplayBuffer
from mtrl.execution import runners
from mtrl.gradients import SURGERIES, WEIGHTINGS, Methods
from mtrl.networks import NETWORKS

T, B, O, A = 3, 16, 5, 2


def methods() -> list[str]:
    """Every surgery and weighting that uses no solver on the host."""
    ours = [kind for kind in SURGERIES.kinds if not SURGERIES.module(kind).__name__.endswith("torchjd_methods")]
    return [*ours, *(kind for kind in WEIGHTINGS.kinds if kind != "equal")]


def agent(
    method: str = "pcgrad",
    network: str = "multi_head",
    seed: int = 0,
    device: Any = "cpu",
    diagnostics: Any = (),
    learner: str = "sac",
    process_group: Any = None,
    **options: Any,
) -> Any:
    """diagnostics: their configurations; options: the agent's."""
    torch.manual_seed(seed)
    sizes = {} if learner == "ppo" else {"batch_size": B}
    return AGENTS.build(
        AGENTS.config_class(learner)(**{**sizes, **options}),
        network=NETWORKS.config_class(network)(width=32, depth=2),
        methods=Methods.of(method, diagnostics=diagnostics, process_group=process_group),
        spec=ControlSpec(tuple(map(str, range(T))), O, A, horizon=10),
        device=device,
        seed=seed,
    )


class Experience:
    """A replay, what fills it, and what an update of `learner` draws from it."""

    def __init__(self, learner: OffPolicyActorCritic, capacity: int = 200) -> None:
        self.learner, self._generator = learner, torch.Generator().manual_seed(1)
        self.replay = ReplayBuffer(T, capacity, O, A, device=learner.device)
        if learner.config.n_step > 1:
            steps: dict[str, Any] = {"steps": learner.config.n_step, "discount": learner.config.gamma, "copies": 10}
            self.replay = NStepReplay(T, capacity, O, A, device=learner.device, **steps)
        self.grow(40)

    def grow(self, count: int = 1) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(T, count, *shape, generator=self._generator).to(self.learner.device)

        new = Transitions(normal(O), normal(A).tanh(), normal(), normal(O), (normal() > 1).float())
        new = new._replace(truncated=torch.zeros_like(new.reward, dtype=torch.bool))
        for start in range(0, count, 10):
            step = Transitions(*(part[:, start : start + 10] if isinstance(part, Tensor) else part for part in new))  # type: ignore[arg-type]
            self.learner.observe(step)
            self.replay.add(step)

    def draw(self) -> list[Transitions]:
        count = 2 if self.learner.needs_second_batch else 1
        return [self.replay.sample(B, self.learner.generator) for _ in range(count)]


def tensors(learner: OffPolicyActorCritic) -> list[Tensor]:
    return list(runners.tensors(learner._state()))


def copy_state(source: OffPolicyActorCritic, target: OffPolicyActorCritic) -> None:
    """In place, so that a graph goes on with it; both have taken a step."""
    with torch.no_grad():
        for new, old in zip(tensors(source), tensors(target), strict=True):
            old.copy_(new)
    target.generator.set_state(source.generator.get_state())


def distance(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest relative difference of two lists of tensors, each tensor by its norm."""
    found = [0.0]
    for a, b in zip(first, second, strict=True):
        if a.is_floating_point():
            size = a.double().norm()
            found.append(((a.double() - b.double()).norm() / torch.where(size > 0, size, 1.0)).item())
        else:
            assert torch.equal(a, b)
    return max(found)
