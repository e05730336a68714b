"""Auto-λ in SAC: actor and critic learn weights of their own, and their derivatives are those of unrolled steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.sac import SAC
from mtrl.core.specs import ControlSpec
from mtrl.gradients import WEIGHTINGS
from mtrl.networks import NETWORKS
from tests.support.gradient_toys import A, B, O, config, methods, transitions
from tests.support.look_aheads import Probe, derivatives


def agent(**options: Any) -> SAC:
    torch.manual_seed(0)
    return AGENTS.build(
        AGENTS.config_class("sac")(batch_size=B),
        network=config(NETWORKS, "multi_head", width=8, depth=2),
        methods=methods(config(WEIGHTINGS, "auto_lambda", **options), tasks=["reach", "push", "pick"]),
        spec=ControlSpec(("reach", "push", "pick"), O, A, horizon=10),
    )


def test_in_sac_actor_and_critic_learn_weights_of_their_own() -> None:
    made = agent(learning_rate=1e-2)
    assert made.needs_second_batch
    metrics = {}
    for k in range(30):
        metrics = made.update(transitions(k), transitions(100 + k))
    actor, critic = metrics["actor/weight"], metrics["critic/weight"]
    assert ((actor - 0.1).abs() > 1e-3).all() and ((critic - 0.1).abs() > 1e-3).all()
    assert not torch.allclose(actor, critic)


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_in_sac_exact_is_the_derivative_of_the_unrolled_step(part: str) -> None:
    made, probe = agent(primary=["push"]), Probe(derivatives)
    getattr(made, f"{part}_optimizer").weighting = probe
    made.update(transitions(0), transitions(1))
    exact, _, unrolled = probe.found[0]
    assert exact.abs().min() > 0
    torch.testing.assert_close(exact, unrolled, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


def test_in_sac_targets_temperatures_and_the_other_network_are_constants() -> None:
    made = agent()
    calls: list[tuple[str, Any]] = []
    for part in ("actor", "critic"):
        method = getattr(made, f"{part}_optimizer")
        original = method.step

        def step(losses: Any, *batches: Any, part: str = part, original: Any = original, **more: Any) -> Any:
            calls.append((part, batches))
            return original(losses, *batches, **more)

        method.step = step
    made.update(transitions(0), transitions(1))
    assert [(part, len(batches)) for part, batches in calls] == [("critic", 2), ("actor", 2)]
    assert not any(t.requires_grad for _, batches in calls for batch in batches for t in batch if isinstance(t, Tensor))
    first, second = calls[0][1]
    assert torch.equal(second.inputs[..., :O], transitions(1).observation)
    assert not torch.equal(first.target, second.target)
