"""The triad's quantities against the paper's definitions, written out on whole gradient vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from mtrl.agents import AGENTS
from mtrl.agents.sac import SAC
from mtrl.core.errors import UserError
from mtrl.core.specs import ControlSpec
from mtrl.gradients import DIAGNOSTICS, Methods
from mtrl.gradients.diagnostics.triad import pair_statistics
from mtrl.networks import NETWORKS
from tests.support.gradient_toys import A, B, O, Regression, T, config, methods, transitions

SCALES = pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])


def optimizer(problem: Regression, surgery: str = "none", window: int = 1, **more: Any) -> Any:
    triad = DIAGNOSTICS.config_class("triad")(window=window)
    return problem.optimizer("equal", surgery, diagnostics=(triad,), **more)


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def task_gradients(problem: Regression, batch: Any) -> Tensor:
    """(T, P) of all parameters, owned ones with zeros at the other tasks' places, by one backward pass a task."""
    losses = problem.losses(*problem.network.tensors, batch)[0]
    parameters = [*problem.network.shared.values(), *problem.network.own.values()]
    return torch.stack([flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses])


def parameters(problem: Regression) -> Tensor:
    return flat([*problem.network.shared.values(), *problem.network.own.values()])


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "graddrop", "cosine_regularization"])
@pytest.mark.parametrize("ensemble", [None, 2])
@pytest.mark.parametrize("sgd", [{"lr": 0.05}, {"lr": 0.05, "momentum": 0.9}], ids=["plain", "momentum"])
def test_curvature_is_the_papers_difference(surgery: str, ensemble: int | None, sgd: Any) -> None:
    """H = 2 [L(θ') − L(θ) − ∇L(θ)·(θ' − θ)] of the sum of the losses on the batch of the step, in float64."""
    problem = Regression("film", ensemble)
    method = optimizer(problem, surgery, sgd=sgd)
    for k in range(3):
        batch = problem.batch(2 * k)
        gradient, before = task_gradients(problem, batch).sum(0), parameters(problem)
        loss = problem.losses(*problem.network.tensors, batch)[0].sum().item()
        found = problem.train(method, 1, first=k)[0]["triad/curvature"].item()
        change = problem.losses(*problem.network.tensors, batch)[0].sum().item() - loss
        expected = 2 * (change - (gradient @ (parameters(problem) - before)).item())
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-12)
        assert abs(found) > 1e-6


def test_curvature_of_a_quadratic_is_its_hessian_along_the_step() -> None:
    """One linear layer with squared errors: H is exactly Δᵀ ∇²L Δ, the Hessian by automatic differentiation."""
    torch.manual_seed(0)
    data, weight = torch.randn(T, B, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def losses(shared: Any, own: Any, own_buffers: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        w = shared["w"]
        return (data @ w.unsqueeze(-1)).squeeze(-1).square().mean(-1), {}

    class Linear(torch.nn.Module):
        num_tasks, ensemble, shared_input, owner = T, None, False, {}

        def __init__(self) -> None:
            super().__init__()
            self.shared = torch.nn.ParameterDict({"w": weight.clone()})
            self.own = torch.nn.ParameterDict()

        @property
        def tensors(self) -> Any:
            return dict(self.shared.items()), {}, {}

        def per_task_leaves(self) -> dict[str, Tensor]:
            return {n: p.detach().expand(T, *p.shape).requires_grad_() for n, p in self.shared.items()}

        def at(self, subset: Any) -> Any:
            return self

    network: Any = Linear()
    sgd = torch.optim.SGD(network.parameters(), lr=0.05)
    triad = DIAGNOSTICS.config_class("triad")(window=1)
    method = Methods(diagnostics=(triad,)).optimizer(network, sgd)
    found = method.step(losses, None)["triad/curvature"]
    step = network.shared["w"].detach() - weight
    total: Any = lambda w: losses({"w": w.expand(T, -1)}, {}, {}, None)[0].sum()  # noqa: E731
    hessian = torch.autograd.functional.hessian(total, weight)
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(found, step @ hessian @ step)


def definitions(gradients: Tensor) -> list[float]:
    """Definitions 1, 2 and 5, and the conditions of Theorem 2, pair by pair."""
    rows = []
    for i in range(len(gradients)):
        for j in range(i):
            a, b = gradients[i], gradients[j]
            cosine = (a @ b / (a.norm() * b.norm())).item()
            phi = (2 * a.norm() * b.norm() / (a.norm() ** 2 + b.norm() ** 2)).item()
            xi = (1 - cosine**2) * ((a - b).norm() ** 2 / (a + b).norm() ** 2).item()
            rows.append([phi, xi, cosine > 0, cosine < 0, cosine < 0 and cosine <= -phi, cosine < 0 and xi <= 1])
    return torch.tensor(rows, dtype=torch.float64).mean(0).tolist()


@SCALES
@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_pairs_follow_the_definitions(tasks: int, scale: float) -> None:
    seen = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.logspace(-2, 2, tasks, dtype=torch.float64).unsqueeze(1)
        gradients = scale * lengths * torch.randn(tasks, 3, dtype=torch.float64, generator=generator)
        found = pair_statistics(gradients @ gradients.T)
        assert found.tolist() == pytest.approx(definitions(gradients), rel=1e-6)
        seen.append(found)
    assert all(0 < share < 1 for share in torch.stack(seen).mean(0)[2:].tolist())


@SCALES
def test_pairs_of_degenerate_gradients_are_defined(scale: float) -> None:
    one = scale * torch.randn(1, 5, dtype=torch.float64)
    identical, opposed, zero, nothing = (torch.cat([one, x]) for x in (one, -one, 0 * one, 0 * one))
    nothing = 0 * nothing
    expected = {"identical": [1, 0, 1, 0, 0, 0], "opposed": [1, 0, 0, 1, 1, 1], "zero": [0, 1, 0, 0, 0, 0]}
    for gradients, values in zip((identical, opposed, zero), expected.values(), strict=True):
        assert pair_statistics(gradients @ gradients.T).tolist() == pytest.approx(values, abs=1e-6)
    assert pair_statistics(nothing @ nothing.T).isfinite().all()
    assert pair_statistics(one @ one.T).isnan().all(), "one task has no pairs"


def test_values_are_means_over_the_window() -> None:
    single, mean = Regression(), Regression()
    rows = single.train(optimizer(single), 7)
    last = mean.train(optimizer(mean, window=4), 7)[-1]
    for name in ("curvature", "magnitude_similarity", "xi", "positive_cosine", "conflict"):
        torch.testing.assert_close(last[f"triad/{name}"], torch.stack([r[f"triad/{name}"] for r in rows[-4:]]).mean())
    shares = torch.stack([r["triad/conflict"] * r["triad/condition_a"].nan_to_num() for r in rows[-4:]]).sum()
    conflicts = torch.stack([r["triad/conflict"] for r in rows[-4:]]).sum()
    torch.testing.assert_close(last["triad/condition_a"], shares / conflicts)


def agent(seed: int = 0, network: str = "multi_head", surgery: str = "pcgrad", watched: bool = True) -> SAC:
    torch.manual_seed(seed)
    watching = (
        DIAGNOSTICS.config_class("triad")(window=3),
        DIAGNOSTICS.config_class("transference")(every=2, apply_to="both"),
    )
    return AGENTS.build(
        AGENTS.config_class("sac")(batch_size=B),
        network=config(NETWORKS, network, width=8, depth=2),
        methods=methods("equal", surgery, diagnostics=watching if watched else ()),
        spec=ControlSpec(tuple(map(str, range(T))), O, A, horizon=10),
        seed=seed,
    )


def test_watching_changes_no_update() -> None:
    """Bit for bit, as surgery needs the tasks' gradients anyway."""
    watched, plain = agent(), agent(watched=False)
    for k in range(6):
        metrics = watched.update(transitions(k))
        assert {"critic/triad/curvature", "actor/triad/xi", "critic/affinity", "actor/affinity"} <= metrics.keys()
        assert not any("triad" in name or "affinity" in name for name in plain.update(transitions(k)))
    ours, theirs = ([*a.actor.parameters(), *a.critic.parameters()] for a in (watched, plain))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("network", [kind for kind in NETWORKS.kinds if kind != "independent"])
@pytest.mark.parametrize("surgery", ["none", "cosine_regularization"])
def test_every_network_can_be_watched(network: str, surgery: str) -> None:
    made, metrics = agent(network=network, surgery=surgery), {}
    for k in range(2):
        metrics = made.update(transitions(k))
    assert all(metrics[f"{part}/triad/curvature"].isfinite() for part in ("actor", "critic"))
    assert metrics["critic/affinity"].isfinite().all()


def test_a_network_that_shares_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"A diagnostic .*shares none"):
        agent(network="independent", surgery="none")


def test_saved_and_restored_diagnostics_go_on_alike(tmp_path: Any) -> None:
    one, other = agent(), agent(seed=9)
    for k in range(5):
        one.update(transitions(k))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for k in range(5, 10):
        first, second = one.update(transitions(k)), other.update(transitions(k))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


def test_no_number_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read back to the host")

    made = agent()
    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    made.update(transitions(0))


def test_conflicts_are_the_share_of_updates_so_far() -> None:
    problem = Regression()
    rows = problem.train(optimizer(problem, "pcgrad"), 9)
    counted = torch.stack([(r["cosine"] < 0).double() for r in rows]).mean(0)
    torch.testing.assert_close(rows[-1]["conflicts"].double(), counted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("triad", "window", 0),
        ("transference", "every", 0),
        ("transference", "apply_to", "critics"),
        ("transference", "step_size", 0.0),
    ],
)
def test_impossible_options_are_refused_by_name(kind: str, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"Option `diagnostics\.{kind}\.{option}`"):
        config(DIAGNOSTICS, kind, **{option: value})


def test_affinities_are_the_metrics_that_a_diagnostic_declares() -> None:
    metrics = {"critic/affinity": 1, "actor/affinity": 2, "critic/cosine": 3, "affinity": 4, "critic/my_affinity": 5}
    both = Methods(diagnostics=[DIAGNOSTICS.config_class(kind)() for kind in ("triad", "transference")])
    assert both.affinities(metrics) == {"critic": 1, "actor": 2, "all": 4}
    assert Methods(diagnostics=[DIAGNOSTICS.config_class("triad")()]).affinities(metrics) == {}


def test_watching_a_network_with_dropout_changes_neither_updates_nor_random_numbers() -> None:
    ends = []
    for watched in ([], [DIAGNOSTICS.config_class(kind)() for kind in ("triad", "transference")]):
        problem = Regression()
        original = problem.losses
        problem.losses = lambda s, o, b, batch, f=original: f(s, o, b, (dropout(batch[0]), batch[1]))  # type: ignore[method-assign]
        method = problem.optimizer("equal", "pcgrad", diagnostics=watched, sgd={"lr": 1e-3})
        torch.manual_seed(5)
        problem.train(method, 2)
        ends.append(torch.cat([parameters(problem), torch.rand(1).double()]))
    assert torch.equal(*ends)
