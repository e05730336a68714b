"""Networks may compute in a lower precision; what is done with the tasks' gradients may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.agents.sac import SAC
from mtrl.execution.precision import float32_products, network_products
from mtrl.gradients.algebra import gramian
from mtrl.networks import NETWORKS
from tests.support.learners import Experience, agent, distance, tensors


def gradients(learner: SAC, per_task: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The critics' losses (T,) on a fixed batch and their gradients, of each task or of the sum."""
    learner.generator.manual_seed(3)
    batch = learner.critic_batch(Experience(learner).draw()[0], torch.ones(3, 1))
    shared, own, buffers = learner.critic.tensors
    leaves = learner.critic.per_task_leaves() if per_task else shared
    losses, _ = learner.critic_losses(leaves, own, buffers, batch)
    wanted = [*leaves.values(), *own.values()]
    return losses.detach(), list(torch.autograd.grad(losses.sum(), wanted))[: len(leaves) or None]


@pytest.mark.parametrize("level", ["high", "medium"])
def test_the_gramian_is_exact_whatever_the_precision_of_products(level: str) -> None:
    """Gradients of which half of the inner products nearly cancel: every sign and size is that of float64."""
    generator = torch.Generator().manual_seed(0)
    base, noise = (torch.randn(10, 5000, generator=generator) for _ in range(2))
    blocks = [base, base.flip(0).roll(1, 1) + 1e-2 * noise, noise[:, :100]]
    exact = torch.stack([b.double() @ b.double().T for b in blocks]).sum(0)
    with float32_products(level):
        found = gramian(blocks)
        assert torch.get_float32_matmul_precision() == level, "put back"
    norms = exact.diagonal().sqrt()
    scale = norms.unsqueeze(0) * norms.unsqueeze(1)
    assert ((found - exact).abs() / scale).max() < 1e-6
    clear = exact.abs() > 1e-6 * scale
    assert torch.equal(found.sign()[clear], exact.sign().to(found)[clear])


@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_bfloat16_is_near_float32_and_gives_float32_back(network: str) -> None:
    full, low = agent("none", network), agent("none", network, precision="bfloat16")
    (losses, exact), (rounded, found) = gradients(full, False), gradients(low, False)
    assert rounded.dtype == torch.float32 and all(g.dtype == torch.float32 for g in found)
    assert 0 < distance([losses], [rounded]) < 0.02
    together, other = (torch.cat([g.flatten() for g in group]) for group in (exact, found))
    assert 0 < distance([together], [other]) < 0.05


def test_the_tasks_gradients_stay_apart_in_bfloat16() -> None:
    """They sum to the joint gradient, and each is that of its own loss alone."""
    learner = agent("pcgrad", precision="bfloat16")
    _, each = gradients(learner)
    _, joint = gradients(learner, per_task=False)
    assert distance([g.sum(0) for g in each], joint) < 0.01
    full = agent("pcgrad")
    _, exact = gradients(full)
    for task in range(3):
        flat = [torch.cat([g[task].flatten() for g in group]) for group in (exact, each)]
        assert distance(flat[:1], flat[1:]) < 0.05


@pytest.mark.parametrize("method", ["pcgrad", "auto_lambda", "cosine_regularization"])
def test_methods_work_in_float32_above_networks_in_bfloat16(method: str) -> None:
    learner = agent(method, precision="bfloat16")
    experience = Experience(learner)
    metrics = learner.learn(experience.draw, 5)
    assert all(t.dtype != torch.bfloat16 for t in [*tensors(learner), *metrics.values()])
    assert all(t.isfinite().all() for t in tensors(learner) if t.is_floating_point())
    assert metrics["critic/cosine"].dtype == torch.float64


def test_only_gpus_compute_in_tf32_and_the_setting_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    for kind, device, level in (("tf32", "cuda", "high"), ("tf32", "cpu", "highest"), ("float32", "cuda", "highest")):
        with network_products(kind, torch.device(device)):
            assert torch.get_float32_matmul_precision() == level
        assert torch.get_float32_matmul_precision() == before


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`agent.precision` should be one of tf32, float32, bfloat16. Found 'half'"):
        agent(precision="half")
