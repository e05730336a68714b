"""The grasping network: the reversed gradient against finite differences, and which labels each domain uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.grasp import DOMAIN, reversed_gradient
from mtrl.core.errors import UserError
from mtrl.core.specs import GraspSpec
from mtrl.data.grasps import ANOTHER, WANTED
from mtrl.data.images import ImageBatch
from mtrl.networks import IMAGE_NETWORKS
from tests.support.gradient_toys import methods

B, SIZE = 5, 8


def grasper(batch_norm: str = "shared", **options: Any) -> Any:
    torch.manual_seed(0)
    agent = AGENTS.build(
        AGENTS.config_class("grasp")(**{"batch_size": B, **options}),
        network=IMAGE_NETWORKS.config_class("conv")(width=3, depth=1, fc_width=5, fc_depth=1, batch_norm=batch_norm),
        methods=methods(),
        spec=GraspSpec(("source", "target"), SIZE),
        seed=0,
    )
    agent.network.double().train()
    return agent


def batch(seed: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, B, 4, SIZE, SIZE, dtype=torch.float64, generator=generator)
    return ImageBatch(images, torch.randint(3, (2, B), generator=generator))


def losses(agent: Any, given: ImageBatch) -> Tensor:
    shared, own, buffers = agent.network.tensors
    return agent.losses(shared, own, {n: b.clone() for n, b in buffers.items()}, given)[0]


def domain_loss(agent: Any, given: ImageBatch) -> Tensor:
    shared, own, buffers = agent.network.tensors
    logits = agent.network.call(shared, own, {n: b.clone() for n, b in buffers.items()}, given.images)[..., DOMAIN]
    truth = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, B)
    return F.binary_cross_entropy_with_logits(logits, truth) * 2  # the sum over the domains


def slope(agent: Any, function: Any, parameters: list[Tensor], direction: list[Tensor]) -> float:
    """The derivative of a function along a direction, by central differences."""
    step, values = 1e-5, []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            values.append(float(function()))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_the_reversed_gradient_has_the_opposite_sign_and_the_given_scale(scale: float) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = reversed_gradient(x, scale)
    assert torch.equal(y, x)
    upstream = torch.randn_like(x)
    y.backward(upstream)
    torch.testing.assert_close(x.grad, -scale * upstream)


@pytest.mark.parametrize("reversal", [0.3, 2.0])
def test_features_climb_the_domain_loss_and_its_head_descends_it(reversal: float) -> None:
    """The features' gradient is ∇(grasps) − λ ∇(domain), the domain head's ∇(domain). Both match finite differences."""
    agent, given = grasper(reversal=reversal), batch()

    def grasp_loss() -> Tensor:
        return losses(agent, given).sum() - domain_loss(agent, given)

    losses(agent, given).sum().backward()
    parameters = dict(agent.network.shared.items())
    for prefix, grasps, domain in (("trunk", 1.0, -reversal), ("domain", 0.0, 1.0)):
        chosen = [p for name, p in parameters.items() if name.startswith(prefix)]
        generator = torch.Generator().manual_seed(1)
        direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in chosen]
        ours = sum(float((p.grad * d).sum()) for p, d in zip(chosen, direction, strict=True))
        of_grasps = slope(agent, grasp_loss, chosen, direction)
        of_domain = slope(agent, lambda: domain_loss(agent, given), chosen, direction)
        assert ours == pytest.approx(grasps * of_grasps + domain * of_domain, rel=1e-5, abs=1e-8)
        assert abs(of_domain) > 1e-4


def test_labels_of_the_wanted_object_are_used_only_in_the_source_unless_target_labels() -> None:
    given = batch()
    swapped = given.labels.clone()
    swapped[given.labels == WANTED], swapped[given.labels == ANOTHER] = ANOTHER, WANTED
    for known in (False, True):
        agent = grasper(target_labels=known)
        difference = losses(agent, given) - losses(agent, given._replace(labels=swapped))
        assert difference[0] != 0 and bool(difference[1] != 0) is known


@pytest.mark.parametrize("batch_norm", ["shared", "task"])
def test_without_target_grasps_nothing_is_learned_from_the_target(batch_norm: str) -> None:
    agent, given = grasper(batch_norm, target_grasps=False), batch()
    assert losses(agent, given)[1] == 0
    other = given._replace(images=torch.stack([given.images[0], torch.randn_like(given.images[1])]))
    updated = [grasper(batch_norm, target_grasps=False) for _ in range(2)]
    for made, seen in zip(updated, (given, other), strict=True):
        made.update(seen)
    images = batch(1).images
    torch.testing.assert_close(updated[0].predict(images), updated[1].predict(images))
    source, target = updated[0].predict(images[:1].expand_as(images))
    torch.testing.assert_close(source, target)


def test_only_the_wanted_objects_head_sees_the_mask() -> None:
    """Another mask changes the predicted success for the wanted object, but not that for any object."""
    images = batch().images
    moved = images.clone()
    moved[..., 3, :, :] = moved[..., 3, :, :].flip(-1)
    for score, changes in (("instance", True), ("any", False)):
        agent = grasper(score=score)
        assert (not torch.equal(agent.predict(images), agent.predict(moved))) is changes


def test_labels_of_attempts_that_are_not_used_are_refused() -> None:
    with pytest.raises(UserError, match=r"agent\.target_labels"):
        grasper(target_grasps=False, target_labels=True)
