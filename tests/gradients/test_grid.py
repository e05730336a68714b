"""All methods together: each pair runs, stays finite, learns, and comes back from a checkpoint as it was."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from mtrl.agents import AGENTS
from mtrl.agents.sac import SAC
from mtrl.core.specs import ControlSpec
from mtrl.gradients import DIAGNOSTICS, SURGERIES, WEIGHTINGS
from mtrl.gradients.surgery.torchjd_methods import CONFIGS
from mtrl.networks import IMAGE_NETWORKS, NETWORKS
from tests.support import cloning as keyframes
from tests.support.gradient_toys import A, B, O, Regression, T, classifier, config, image_batch, methods, transitions

pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")

Combination = tuple[str, str, str]
"""Network, weighting, surgery."""
STATEFUL = ["uncertainty", "imtl_l", "dwa", "gradnorm", "famo", "random", "auto_lambda"]


def meaningless(network: str, weighting: str, surgery: str) -> bool:
    return network == "independent" and (surgery != "none" or weighting == "gradnorm")


def pairs() -> list[Combination]:
    """Every pair of methods at least once, with the plainest kind as the third."""
    found = {(n, w, "none") for n, w in itertools.product(NETWORKS.kinds, WEIGHTINGS.kinds)}
    found |= {(n, "equal", s) for n, s in itertools.product(NETWORKS.kinds, SURGERIES.kinds)}
    found |= {("multi_head", w, s) for w, s in itertools.product(WEIGHTINGS.kinds, SURGERIES.kinds)}
    return sorted(c for c in found if not meaningless(*c))


def everything() -> list[Combination]:
    return [c for c in itertools.product(NETWORKS.kinds, WEIGHTINGS.kinds, SURGERIES.kinds) if not meaningless(*c)]


def agent(network: str, weighting: str, surgery: str, seed: int = 0, **options: Any) -> SAC:
    torch.manual_seed(seed)
    return AGENTS.build(
        AGENTS.config_class("sac")(batch_size=B, **options),
        network=config(NETWORKS, network, width=8, depth=2),
        methods=methods(weighting, surgery),
        spec=ControlSpec(tuple(map(str, range(T))), O, A, horizon=10),
        seed=seed,
    )


def assert_finite(metrics: dict[str, torch.Tensor], *modules: torch.nn.Module) -> None:
    assert all(v.isfinite().all() for v in metrics.values()), [k for k, v in metrics.items() if not v.isfinite().all()]
    assert all(p.isfinite().all() for m in modules for p in m.parameters())


def check_in_sac(combination: Combination) -> None:
    made = agent(*combination)
    before = [[p.detach().clone() for p in n.parameters()] for n in (made.actor, made.critic)]
    metrics = {}
    for k in range(2):
        metrics = made.update(transitions(k), transitions(100 + k))
    assert_finite(metrics, made.actor, made.critic)
    for old, network in zip(before, (made.actor, made.critic), strict=True):
        assert any((a != b).any() for a, b in zip(old, network.parameters(), strict=True))


def check_supervised(combination: Combination) -> None:
    network, weighting, surgery = combination
    problem = Regression(network)
    extras = {"log_alpha": torch.zeros(T, dtype=torch.float64)}
    metrics = problem.train(problem.optimizer(weighting, surgery), 2, extras=extras)
    assert_finite(metrics[-1], problem.network)


METHODS = [("weighting", k) for k in WEIGHTINGS.kinds] + [("surgery", k) for k in SURGERIES.kinds if k != "none"]
EACH_METHOD = pytest.mark.parametrize(("group", "kind"), METHODS, ids=[f"{g}-{k}" for g, k in METHODS])


def with_method(group: str, kind: str) -> Combination:
    return ("multi_head", kind, "none") if group == "weighting" else ("multi_head", "equal", kind)


@EACH_METHOD
def test_every_method_runs_in_behaviour_cloning(group: str, kind: str) -> None:
    """Convolutions, attention and embeddings included: finite, and every shared tensor that is in use moves."""
    if kind == "softmax_temperature":
        pytest.skip("needs an agent with temperatures")
    _, weighting, surgery = with_method(group, kind)
    made = keyframes.agent(weighting, surgery)
    before = {n: p.detach().clone() for n, p in made.network.named_parameters()}
    metrics = {}
    for k in range(2):
        metrics = made.update(keyframes.batch(k), keyframes.batch(100 + k))
    assert_finite(metrics, made.network)
    assert [n for n, p in made.network.named_parameters() if torch.equal(p, before[n])] == []


def check_on_images(combination: Combination, shared_input: bool = False) -> None:
    """Two updates of the supervised agent; the running statistics follow the training batches and nothing else."""
    made = classifier(*combination, shared_input=shared_input)
    before = [p.detach().clone() for p in made.network.parameters()]
    metrics = {}
    for k in range(2):
        metrics = made.update(image_batch(k, shared_input), image_batch(100 + k, shared_input))
    assert_finite(metrics, made.network)
    assert any((a != b).any() for a, b in zip(before, made.network.parameters(), strict=True))


IMAGE_PAIRS = sorted(
    {(n, w, "none") for n, w in itertools.product(IMAGE_NETWORKS.kinds, ["equal", "auto_lambda"])}
    | {(n, "equal", s) for n, s in itertools.product(IMAGE_NETWORKS.kinds, ["pcgrad", "graddrop"])}
    | {("conv", w, "none") for w in WEIGHTINGS.kinds if w != "softmax_temperature"}
    | {("conv", "equal", s) for s in SURGERIES.kinds}
)


@pytest.mark.parametrize("shared_input", [False, True], ids=["own-images", "same-images"])
def test_every_method_and_image_network_runs_in_the_supervised_agent(shared_input: bool) -> None:
    for combination in IMAGE_PAIRS:
        check_on_images(combination, shared_input)


WATCHING = (DIAGNOSTICS.config_class("triad")(), DIAGNOSTICS.config_class("transference")(every=2))


@pytest.mark.parametrize("learner", ["cloning", "own-images", "same-images"])
def test_watching_changes_no_other_learner(learner: str) -> None:
    """Whatever shares parameters can be watched, running statistics included: its training stays the same."""
    same = learner == "same-images"
    made: list[Any] = []
    metrics: dict[str, torch.Tensor] = {}
    for watching in ((), WATCHING):
        if learner == "cloning":
            made.append(keyframes.agent("auto_lambda", "pcgrad", diagnostics=watching))
        else:
            made.append(classifier("conv", "auto_lambda", "pcgrad", shared_input=same, diagnostics=watching))
        for k in range(4):
            batches = [keyframes.batch(s) if learner == "cloning" else image_batch(s, same) for s in (k, 100 + k)]
            metrics = made[-1].update(*batches)
    plain, watched = (a.network.state_dict() for a in made)
    assert [name for name, value in plain.items() if not torch.equal(value, watched[name])] == []
    assert {"triad/curvature", "affinity"} <= set(metrics)
    assert metrics["affinity"].isfinite().all() and (metrics["affinity"] != 0).any(1).all()
    assert metrics["triad/curvature"].isfinite()


@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_every_pair_runs_in_sac_and_supervised(network: str) -> None:
    for combination in (c for c in pairs() if c[0] == network):
        check_in_sac(combination)
        check_supervised(combination)


@pytest.mark.grid
@pytest.mark.parametrize("combination", everything(), ids="-".join)
def test_every_combination_runs_in_sac_and_supervised(combination: Combination) -> None:
    check_in_sac(combination)
    check_supervised(combination)


@EACH_METHOD
def test_every_method_learns(group: str, kind: str) -> None:
    """The losses of linear teachers fall to less than half."""
    problem = Regression()
    _, weighting, surgery = with_method(group, kind)
    if weighting == "auto_lambda":
        weighting = config(WEIGHTINGS, weighting, initial=1.0)
    extras = {"log_alpha": torch.zeros(T, dtype=torch.float64)}
    metrics = problem.train(problem.optimizer(weighting, surgery, sgd={"lr": 0.1}), 150, extras=extras)
    losses = torch.stack([m["loss"] for m in metrics])
    focus = slice(0, 1) if getattr(config(SURGERIES, surgery), "requires_primary", False) else slice(None)
    assert losses[-10:, focus].sum() < 0.5 * losses[:10, focus].sum()


def stay_finite(group: str, kind: str, updates: int) -> None:
    """SAC on rewards that make the actor's losses negative, with a high learning rate."""
    made = agent(*with_method(group, kind), learning_rate=3e-3, initial_temperature=0.01)
    metrics = {}
    for k in range(updates):
        metrics = made.update(transitions(k % 50, scale=10.0), transitions(50 + k % 50, scale=10.0))
    assert (metrics["actor/loss"] < 0).all()
    assert_finite(metrics, made.actor, made.critic)


@EACH_METHOD
def test_negative_actor_losses_stay_finite(group: str, kind: str) -> None:
    stay_finite(group, kind, 200)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@EACH_METHOD
def test_negative_actor_losses_stay_finite_for_long(group: str, kind: str) -> None:
    stay_finite(group, kind, 2000)


@EACH_METHOD
def test_saved_and_restored_runs_go_on_alike(group: str, kind: str, tmp_path: Any) -> None:
    combination = with_method(group, kind)
    one, other = agent(*combination), agent(*combination, seed=9)
    for k in range(5):
        one.update(transitions(k), transitions(100 + k))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for k in range(5, 8):
        first, second = (a.update(transitions(k), transitions(100 + k)) for a in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
    for ours, theirs in zip(one.critic.parameters(), other.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)


OURS = [(g, k) for g, k in METHODS if g == "weighting" or k not in CONFIGS]


@pytest.mark.parametrize(("group", "kind"), OURS, ids=[f"{g}-{k}" for g, k in OURS])
def test_no_number_is_read_back_in_an_update(group: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the device, save in torchjd's solvers."""

    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was read back to the host")

    made = agent(*with_method(group, kind))
    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    made.update(transitions(0), transitions(1))


@pytest.mark.parametrize("kind", STATEFUL)
def test_the_state_of_a_weighting_matters(kind: str) -> None:
    """Without what a method has learned, the next weights differ: the round trip above is no accident."""
    one = agent("multi_head", kind, "none")
    for k in range(5):
        one.update(transitions(k), transitions(100 + k))
    fresh = agent("multi_head", kind, "none")
    before = copy.deepcopy(fresh.critic_optimizer.weighting.state_dict())
    fresh.load_state_dict(one.state_dict())
    fresh.critic_optimizer.weighting.load_state_dict(before)
    if kind == "random":
        fresh.generator.manual_seed(77)
    first, second = (a.update(transitions(5), transitions(105))["critic/weight"] for a in (one, fresh))
    assert not torch.equal(first, second)
