"""MBML: posteriors and the triplet loss against plain transcriptions of the paper, and what is relabelled."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mtrl.agents import posteriors
from mtrl.agents.mbml import Contexts
from mtrl.agents.posteriors import Gaussian
from mtrl.core.errors import UserError
from mtrl.core.types import Transitions
from mtrl.execution import runners
from mtrl.gradients import DIAGNOSTICS
from tests.support.learners import A, B, Experience, O, T, agent, tensors

K, Z = 8, 3


def learner(method: str = "none", **options: Any) -> Any:
    options = {"context_size": K, "code_size": Z, "teacher_updates": 2, "reward_ensemble": 3, **options}
    return agent(method, options.pop("network", "mlp"), learner="mbml", **options)


def gaussians(*shape: int, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, raw = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return Gaussian(mean, raw.exp())


def context(seed: int = 0) -> Transitions:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(T, K, *shape, generator=generator)

    return Transitions(normal(O), normal(A).tanh(), normal(), normal(O), torch.zeros(T, K))


def test_a_posterior_is_the_normalised_product_of_its_factors_densities() -> None:
    """Compared on a grid: the product of K densities, divided by its integral, has the same mean and variance."""
    factors = gaussians(5, 4, Z)
    found = posteriors.product(factors)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64).view(-1, 1, 1)
    for row in range(5):
        each = Normal(factors.mean[row], factors.variance[row].sqrt())
        log_density = each.log_prob(grid).sum(1)
        density = (log_density - log_density.max(0).values).exp()
        mean = (density * grid[:, 0]).sum(0) / density.sum(0)
        variance = (density * (grid[:, 0] - mean).square()).sum(0) / density.sum(0)
        torch.testing.assert_close(found.mean[row], mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.variance[row], variance, rtol=1e-4, atol=1e-6)


def test_factors_without_weight_do_not_count() -> None:
    factors, weight = gaussians(2, 6, Z), torch.tensor([[1, 0, 1, 1, 0, 0], [0] * 6]).double()
    found = posteriors.product(factors, weight)
    alone = posteriors.product(Gaussian(*(x[0, [0, 2, 3]] for x in factors)))
    torch.testing.assert_close((found.mean[0], found.variance[0]), tuple(alone))
    assert found.mean[1].tolist() == [0.0] * Z and found.variance[1].tolist() == [1.0] * Z


def test_the_order_of_transitions_does_not_matter() -> None:
    made, given, order = learner(), context(), torch.arange(K).flip(0)
    turned = given.map(lambda x: x[:, order])
    torch.testing.assert_close(tuple(made.infer(given)), tuple(made.infer(turned)))


def test_the_triplet_loss_is_the_papers() -> None:
    anchor, positive, negative = (gaussians(7, Z, seed=seed) for seed in range(3))
    as_normal = [Normal(g.mean, g.variance.sqrt()) for g in (anchor, positive, negative)]
    near, far = (kl_divergence(as_normal[0], other).sum(-1) for other in as_normal[1:])
    torch.testing.assert_close(posteriors.triplet_loss(anchor, positive, negative, 2.0), (near - far + 2).clamp(min=0))


def test_the_triplet_losses_of_a_batch_are_those_of_a_loop() -> None:
    """Sec. 4 of the paper, task by task, with as many of the task's own transitions as were relabelled."""
    made = learner(reward_agreement=0.1)
    made.student.double()
    found = made.contexts(context())
    found = Contexts(*(part.double() for part in found))
    agreed = torch.rand(found.agreed.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    agreed[0, 0] = False  # nothing can be relabelled: there is no triplet
    found = found._replace(agreed=agreed.double())

    def encode(rows: Tensor) -> Gaussian:
        output = made.student(rows.flatten(1, -2))
        return posteriors.factors_of(output, rows.shape[:-1])

    losses = made._triplets(encode, encode(found.own), found)
    for i in range(T):
        each = []
        for j in range(T - 1):
            chosen = agreed[i, j]
            if not chosen.any():
                each.append(torch.zeros(()).double())
                continue
            parts = (found.relabelled[i, j, chosen], found.own[i, : int(chosen.sum())], found.others[i, j, chosen])
            normal = []
            for rows in parts:
                mean, raw = made.student(rows.expand(T, -1, -1))[i].chunk(2, -1)
                precision = (1 / torch.nn.functional.softplus(raw)).sum(0)
                normal.append(Normal((mean / torch.nn.functional.softplus(raw)).sum(0) / precision, precision**-0.5))
            near, far = (kl_divergence(normal[0], other).sum() for other in normal[1:])
            each.append((near - far + 2).clamp(min=0))
        torch.testing.assert_close(losses[i], torch.stack(each).mean())


def test_transitions_are_relabelled_by_the_tasks_own_ensemble_where_it_agrees() -> None:
    made, given = learner(), context()
    pairs = torch.cat([given.observation, given.action], -1)
    made.config.reward_agreement = threshold = made.rewards(pairs).std(0).median().item()
    found = made.contexts(given)
    rows = torch.cat([given.observation, given.action, given.next_observation, given.reward.unsqueeze(-1)], -1)
    assert torch.equal(found.own, rows)
    for i in range(T):
        origins = [j for j in range(T) for k in range(T - 1) if torch.equal(found.others[i, k], rows[j])]
        assert sorted(origins) == [j for j in range(T) if j != i]
        pairs = found.others[i, ..., : O + A].flatten(0, 1).expand(T, -1, -1)
        predicted = made.rewards(pairs)[:, i, :, 0].unflatten(-1, (T - 1, K))
        torch.testing.assert_close(found.relabelled[i, ..., -1], predicted.mean(0))
        assert torch.equal(found.relabelled[i, ..., :-1], found.others[i, ..., :-1])
        assert torch.equal(found.agreed[i] > 0, predicted.std(0) < threshold)
        allowed = found.relabelled[i][found.agreed[i] > 0]
        added = found.added[i][found.is_added[i] > 0]
        assert len(added) == min(K, len(allowed)) and len(added.unique(dim=0)) == len(added)
        assert all((row == allowed).all(-1).any() for row in added)
    assert 0 < found.agreed.mean() < 1


def test_teachers_come_first_and_then_stay_as_they_are() -> None:
    made = learner(teacher_updates=3)
    draw = _draw(made)
    taught = (made.actor, made.critic, made.vae, made.rewards)
    students = (made.student, made.generate)

    def copies(networks: Any) -> list[Tensor]:
        return [p.detach().clone() for network in networks for p in network.parameters()]

    states = [(copies(taught), copies(students))]
    for _ in range(6):
        made.learn(draw, 1)
        states.append((copies(taught), copies(students)))
    same = [[all(map(torch.equal, a, b)) for a, b in zip(x, y, strict=True)] for x, y in pairwise(states)]
    assert same == [[False, True]] * 3 + [[True, False]] * 3


def _draw(made: Any) -> Any:
    experience, count = Experience(made), 2 if made.needs_second_batch else 1
    return lambda: [experience.replay.sample(made.config.rows, made.generator) for _ in range(count)]


def test_training_resumes_exactly_in_either_phase() -> None:
    for before in (1, 3):
        whole, parts = learner(), learner()
        draw = _draw(whole)
        whole.learn(draw, before)
        parts.learn(_draw(parts), before)
        again = learner(seed=5)
        again.load_state_dict(parts.state_dict())
        assert again._updates == before
        early = learner()
        early.load_state_dict({name: part for name, part in parts.state_dict().items() if name != "updates"})
        assert early._updates == before
        whole.learn(draw, 2)
        again.learn(_draw(again), 2)
        assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(again), strict=True))


def test_surgery_works_on_the_students_losses() -> None:
    """The student learns with PCGrad, and its per-task gradients add up to the joint one."""
    joint, surgical = learner(), agent("pcgrad", "mlp", learner="mbml", context_size=K, code_size=Z, teacher_updates=1)
    for made in (joint, surgical):
        made.learn(_draw(made), 3)
    batch = _draw(joint)()[0]
    rows = [batch.map(lambda x: x[:, :B]), batch.map(lambda x: x[:, B:])]
    student = joint.student_batch(*rows)
    shared, own, buffers = joint.student.tensors
    total = joint.student_losses(shared, own, buffers, student)[0].sum()
    wanted = torch.autograd.grad(total, list(shared.values()))
    leaves = joint.student.per_task_leaves()
    apart = torch.autograd.grad(joint.student_losses(leaves, own, buffers, student)[0].sum(), list(leaves.values()))
    for a, b in zip(wanted, apart, strict=True):
        torch.testing.assert_close(a, b.sum(0), rtol=1e-4, atol=1e-5)


def test_a_weighting_that_looks_ahead_works_on_the_students_losses() -> None:
    made = learner("auto_lambda")
    assert made.learn(_draw(made), 3)["student/weight"].isfinite().all()


def test_what_works_on_the_host_in_the_student_alone_rules_out_faster_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "_finds_compiler", lambda: True)
    watched = [DIAGNOSTICS.config_class("transference")()]
    assert [learner(execution="auto", diagnostics=d).execution for d in ((), watched)] == ["auto", "plain"]
    with pytest.raises(UserError, match=r"agent\.execution.*works on the host"):
        learner(execution="compiled", diagnostics=watched)


def test_a_code_is_enough_for_a_new_task() -> None:
    made = learner()
    five = context().map(lambda x: x[:1].repeat(5, *[1] * (x.ndim - 1)))
    code = made.infer(five).mean
    assert code.shape == (5, Z)
    action = made.act_on(torch.randn(5, 4, O), code)
    assert action.shape == (5, 4, A) and action.abs().max() <= 1
    with pytest.raises(UserError, match="only by a code"):
        learner(network="multi_head")
    assert learner(network="film").student.known_by_code_alone


def test_without_inference_nothing_depends_on_the_context() -> None:
    made = learner(inference=False)
    assert made.infer(context()).mean.abs().max() == 0
    losses, _ = made.student_losses(*made.student.tensors, made.student_batch(context(), context(1)))
    other, _ = made.student_losses(*made.student.tensors, made.student_batch(context(), context(2)))
    assert torch.equal(losses, other)
