"""Which methods go with which networks and losses, and what is refused in one line."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.core.errors import UserError
from mtrl.core.specs import ControlSpec
from mtrl.experiment import Experiment, compose
from mtrl.gradients import SURGERIES, WEIGHTINGS, Context, Methods, Surgery, Weighting
from mtrl.gradients import methods as methods_module
from mtrl.gradients.base import SurgeryConfig, primary_tasks
from mtrl.networks import NETWORKS
from tests.support import outside
from tests.support.gradient_toys import A, B, O, Regression, T, config, methods, transitions

TASKS = ["reach", "push", "pick"]
POSITIVE = ("uncertainty", "imtl_l", "dwa", "gradnorm", "famo", "geometric_mean")


def agent(
    weighting: Any = "equal", surgery: Any = "none", network: str = "multi_head", learner: str = "sac", **more: Any
) -> Any:
    torch.manual_seed(0)
    return AGENTS.build(
        AGENTS.config_class(learner)(batch_size=B),
        network=config(NETWORKS, network, width=8, depth=2),
        methods=methods(weighting, surgery, tasks=TASKS, **more),
        spec=ControlSpec(tuple(TASKS), O, A, horizon=10),
    )


def refused(match: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as error:
        agent(*arguments, **options)
    assert "\n" not in str(error.value)


def test_primary_tasks_by_name_and_index() -> None:
    assert primary_tasks("p", ["push", 2], TASKS, T).tolist() == [False, True, True]
    assert primary_tasks("p", [], TASKS, T).all()
    with pytest.raises(UserError, match="tasks that are all different"):
        primary_tasks("p", ["push", 1], TASKS, T)
    for wrong in ("fly", "3", "-1", "1.0"):
        with pytest.raises(UserError, match=r"Option `p` should be tasks \(reach, push, pick\) or indexes below 3"):
            primary_tasks("p", [wrong], TASKS, T)


def test_the_methods_that_need_positive_losses_are_known() -> None:
    built = {kind: WEIGHTINGS.build(config(WEIGHTINGS, kind), num_tasks=T) for kind in WEIGHTINGS.kinds}
    assert sorted(k for k, weighting in built.items() if weighting.requires_positive_losses) == sorted(POSITIVE)


@pytest.mark.parametrize("kind", POSITIVE)
def test_the_actor_takes_the_critics_weights(kind: str) -> None:
    made = agent(config(WEIGHTINGS, kind, **({"window": 2} if kind == "dwa" else {})))
    metrics = {}
    for k in range(8):
        metrics = made.update(transitions(k))
        assert torch.equal(metrics["actor/weight"], metrics["critic/weight"])
    assert (metrics["critic/weight"] != 1).any()


@pytest.mark.parametrize("kind", [*POSITIVE, "auto_lambda", "stch", "random", "softmax_temperature"])
def test_the_actor_may_weigh_all_tasks_alike(kind: str) -> None:
    metrics = agent(config(WEIGHTINGS, kind, actor_weights="equal")).update(transitions(0), transitions(1))
    assert torch.equal(metrics["actor/weight"], torch.ones(T))


@pytest.mark.parametrize("kind", POSITIVE)
def test_weights_of_its_own_are_refused_where_the_actors_losses_forbid_them(kind: str) -> None:
    refused(r"weighting.actor_weights.*critic or equal.*positive losses", config(WEIGHTINGS, kind, actor_weights="own"))


@dataclass
class Plain:
    """A configuration that derives from nothing."""

    kind: str = "logarithm"


class Logarithm(Weighting):
    requires_positive_losses = True

    def weights(self, context: Context) -> Tensor:
        return context.losses.log1p()


def test_a_weighting_of_ones_own_is_held_to_what_it_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flag alone keeps it from an actor's losses, whatever its configuration is."""
    registry = SimpleNamespace(build=lambda config, num_tasks: Logarithm())
    monkeypatch.setattr(methods_module, "WEIGHTINGS", registry)
    made = agent(Plain())
    for k in range(3):
        metrics = made.update(transitions(k, scale=10.0))
        assert torch.equal(metrics["actor/weight"], metrics["critic/weight"])
        torch.testing.assert_close(metrics["critic/weight"], metrics["critic/loss"].log1p())
    with pytest.raises(UserError, match=r"logarithm.*stay positive, or beside a critic"):
        Regression().optimizer(Plain(), "none", part="actor")


def test_without_a_critic_its_weights_are_refused() -> None:
    problem = Regression()
    with pytest.raises(UserError, match=r"uncertainty.*stay positive, or beside a critic"):
        problem.optimizer("uncertainty", "none", part="actor")


@pytest.mark.parametrize("actor", ["none", "pcgrad", "graddrop"])
@pytest.mark.parametrize("critic", [None, "none", "cosine_regularization", "gcs"])
def test_critics_may_have_a_surgery_of_their_own(actor: str, critic: str | None) -> None:
    """Each network's gradient is that of an agent which uses its surgery everywhere."""
    more = {} if critic is None else {"critic_surgery": config(SURGERIES, critic)}
    mixed, same = agent(surgery=actor, **more), agent(surgery=critic or actor)
    assert type(mixed.actor_optimizer.surgery) is type(agent(surgery=actor).actor_optimizer.surgery)
    assert type(mixed.critic_optimizer.surgery) is type(same.critic_optimizer.surgery)
    mixed.update(transitions(0))
    same.update(transitions(0))
    for ours, theirs in zip(mixed.critic.parameters(), same.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_critics_may_have_a_weighting_of_their_own() -> None:
    made = agent("stch", critic_weighting=config(WEIGHTINGS, "uncertainty", initial=0.7))
    metrics = made.update(transitions(0))
    torch.testing.assert_close(metrics["actor/weight"], T * (metrics["actor/loss"] / T).softmax(0))
    torch.testing.assert_close(metrics["critic/weight"], torch.full((T,), 0.5).div(2.01375), rtol=1e-3, atol=0)


@pytest.mark.parametrize("learner", ["sac", "td3", "bcq"])
def test_surgery_may_act_on_each_of_two_critics(learner: str) -> None:
    made = agent(surgery=SURGERIES.config_class("pcgrad")(per_critic=True), learner=learner)
    assert made.critic_optimizer.per_member
    made.update(transitions(0))


def test_methods_of_the_critics_need_critics() -> None:
    for option in ({"critic_surgery": config(SURGERIES, "pcgrad")}, {"critic_weighting": config(WEIGHTINGS, "stch")}):
        network = Regression().network
        with pytest.raises(UserError, match=f"`{next(iter(option))}` should be left out for an agent with one network"):
            Methods(**option).optimizer(network, torch.optim.SGD(network.parameters(), lr=0.1))


def test_methods_are_refused_where_a_learner_has_no_place_for_them() -> None:
    Methods().refuse("agent=plain")
    for chosen in (methods("stch"), methods(surgery="gcs"), Methods(critic_surgery=config(SURGERIES, "pcgrad"))):
        with pytest.raises(UserError, match="for agent=plain"):
            chosen.refuse("agent=plain")


SURGERY = [kind for kind in SURGERIES.kinds if kind != "none"]


@pytest.mark.parametrize("kind", SURGERY)
def test_surgery_needs_shared_parameters(kind: str) -> None:
    refused("shares none", surgery=kind, network="independent")


def test_gradnorm_needs_shared_parameters() -> None:
    refused("shares none", "gradnorm", network="independent")


@pytest.mark.parametrize("kind", ["gcs", "pcd"])
def test_a_primary_task_is_required(kind: str) -> None:
    refused("surgery.primary.*the primary tasks", surgery=SURGERIES.config_class(kind)())


def test_pcd_has_one_primary_task() -> None:
    refused("at most 1 task for pcd", surgery=config(SURGERIES, "pcd", primary=["reach", "push"]))


def test_both_choices_of_primary_tasks_agree() -> None:
    both = config(WEIGHTINGS, "auto_lambda", primary=["reach"])
    refused("weighting.primary", both, config(SURGERIES, "gcs", primary=["push"]))
    made = agent(both, SURGERIES.config_class("gcs")())
    assert made.actor_optimizer.primary.tolist() == made.critic_optimizer.primary.tolist() == [True, False, False]


@pytest.mark.parametrize("kind", ["graddrop", "cosine_regularization"])
def test_per_critic_is_for_gramians(kind: str) -> None:
    with pytest.raises(UserError, match=r"surgery\.per_critic"):
        compose(["benchmark=toy", f"surgery={kind}", "surgery.per_critic=true"])


def test_temperatures_are_an_agents() -> None:
    problem = Regression()
    with pytest.raises(UserError, match="log_alpha"):
        problem.optimizer("softmax_temperature", "none", extras=())


@pytest.mark.parametrize("agent", [["agent=td3"], ["agent=ppo", "training=on_policy"]])
def test_temperatures_are_missed_before_training_starts(agent: list[str]) -> None:
    with pytest.raises(UserError, match="softmax_temperature should be used by an agent that has log_alpha, like sac"):
        Experiment(compose(["benchmark=toy", "device=cpu", *agent, "weighting=softmax_temperature"]))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["critic_surgery=pcgrad", "critic_surgery.variant=x"], "critic_surgery.variant"),
        (["surgery=pcgrad", "surgery.variant=x", "critic_surgery=pcgrad"], "surgery.variant"),
        (["critic_weighting=dwa", "critic_weighting.actor_weights=x"], "critic_weighting.actor_weights"),
        (["critic_surgery=gcs", "critic_surgery.primary=[]"], "critic_surgery.primary"),
        (["critic_surgery=gcs", "critic_surgery.primary=[9]"], "critic_surgery.primary"),
        (["surgery=gcs", "surgery.primary=[9]"], "surgery.primary"),
        (["critic_surgery=transference", "critic_surgery.candidates=[bogus]"], "critic_surgery.candidates"),
        (["critic_weighting=dwa", "critic_weighting.actor_weights=critic"], "critic_weighting.actor_weights"),
        (["agent=ppo", "training=on_policy", "surgery=pcgrad", "surgery.per_critic=true"], "surgery.per_critic"),
        (["weighting=dwa", "critic_weighting=equal"], "weighting"),
        (["weighting=stch", "weighting.actor_weights=critic", "critic_weighting=dwa"], "weighting"),
        (["weighting=stch", "weighting.actor_weights=equal", "critic_weighting=dwa"], "weighting"),
    ],
)
def test_a_wrong_value_names_the_option_as_it_was_typed(options: list[str], named: str) -> None:
    with pytest.raises(UserError, match=rf"^Option `{named}`"):
        Experiment(compose(["benchmark=toy", "device=cpu", *options]))


@pytest.mark.parametrize(
    ("registry", "kind", "option", "value"),
    [
        (WEIGHTINGS, "auto_lambda", "estimator", "first_order"),
        (WEIGHTINGS, "auto_lambda", "sampled_tasks", 0),
        (WEIGHTINGS, "auto_lambda", "actor_weights", "mine"),
        (WEIGHTINGS, "dwa", "window", 0),
        (WEIGHTINGS, "dwa", "temperature", 0.0),
        (WEIGHTINGS, "stch", "mu", 0.0),
        (WEIGHTINGS, "gradnorm", "alpha", -1.0),
        (WEIGHTINGS, "uncertainty", "learning_rate", -1.0),
        (SURGERIES, "pcgrad", "variant", "half"),
        (SURGERIES, "graddrop", "leak", 2.0),
        (SURGERIES, "cosine_regularization", "strength", -1.0),
        (SURGERIES, "cagrad", "c", -0.1),
        (SURGERIES, "fairgrad", "alpha", 0.0),
        (SURGERIES, "nash_mtl", "every", 0),
    ],
)
def test_impossible_options_are_refused_by_name(registry: Any, kind: str, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"Option `{registry.group}\.{option}`"):
        config(registry, kind, **{option: value})


def test_last_weights_are_saved() -> None:
    problem = Regression()
    made = problem.optimizer("stch", "none", sgd={"lr": 0.0})
    weights = problem.train(made, 1)[0]["weight"]
    torch.testing.assert_close(made.state_dict()["last_weights"].double(), weights)


@dataclass
class Mine:
    kind: str = "mine"


def surgery(**members: Any) -> Surgery:
    return type("Own", (Surgery,), members)()


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"coefficient": lambda s, g, p, n: g[0]}, r"overrides one of coefficients, .* Found \['coefficient'\]"),
        ({"coefficients": lambda s, g, p, n: g[:, :1]}, r"a tensor \(3,\)\. Found \(3, 1\)"),
        ({"coefficients": lambda s, g, p, n: g.sum()}, r"a tensor \(3,\)\. Found \(\)"),
        ({"coefficients": lambda s, g, p, n: g[:0], "needs_look_ahead": True}, r"\(candidates, 3\).* Found \(0, 3\)"),
        ({"coefficients": lambda s, g, p, n: None}, r"a tensor \(3,\)\. Found 'NoneType'"),
        ({"coefficients": lambda s, g, p, n: g[0] / 0 - g[0] / 0}, r"of finite numbers\. Found \[nan, "),
        ({"coefficients": lambda s, g: g[0]}, r"Found 'TypeError: .* 4 were given"),
        ({"__init__": lambda s: None}, r"one whose __init__ calls super\(\)\.__init__\(\)\."),
        ({"combine": lambda s, g, c, w, r: g.flatten(1).mean(1)}, r"tensor \(4,\) for .*Found 'torch.float32 \(3,\)'"),
        ({"combine": lambda s, g, c, w, r: c.to(g) @ g}, r"tensor \(5, 4\) for gradients \(3, 5, 4\)\. Found .*Error"),
        ({"combine": lambda s, g, c, w, r: g.double().sum(0)}, r"float32 tensor \(4,\) .* Found 'torch.float64 "),
        ({"combine": lambda s, g, c, w, r: None}, r"combine\(gradients, .*\. Found 'NoneType'"),
        ({"combine": lambda s, g, c, w, r: g[0] / 0}, r"of finite numbers\. Found \["),
        ({"combine": lambda s, g: g.sum(0)}, r"Found 'TypeError: .* 5 were given"),
        ({"penalty": lambda s, g: g.sum()}, r"one with has_penalty = True, as it overrides penalty\. Found False"),
        ({"penalty": lambda s, g: g[0], "has_penalty": True}, r"gives a tensor \(\) .*Found \(3,\)"),
        ({"penalty": lambda s, g: 0.0, "has_penalty": True}, r"gives a tensor \(\) .*Found 'float'"),
        ({"penalty": lambda s, g: g.detach().sum(), "has_penalty": True}, r"Found 'one without a gradient'"),
        ({"penalty": lambda s, g: g.sum() / 0, "has_penalty": True}, r", a finite one\. Found inf"),
        ({"penalty": lambda s: None, "has_penalty": True}, r"Found 'TypeError: .* 2 were given"),
    ],
)
def test_a_surgery_from_outside_is_tried_and_refused_in_one_line(
    members: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.add(monkeypatch, SURGERIES, "mine", build=lambda config, *, num_tasks: surgery(**members))
    refused(rf"Own, of surgery=mine, should be .*{complaint}", surgery=Mine())


@pytest.mark.parametrize("each_member", [False, True])
def test_a_surgery_from_outside_combines_members_as_its_config_says(
    each_member: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin critics' coefficients are (2, T) if each member has its own."""
    found = []

    def combined(self: Any, gradients: Tensor, coefficients: Tensor, weights: Tensor, generator: Any) -> Tensor:
        found.append(tuple(coefficients.shape))
        return gradients.sum(0)

    @dataclass
    class Config(SurgeryConfig):
        kind: str = "mine"

        def each_member(self) -> bool:
            return each_member

    outside.add(monkeypatch, SURGERIES, "mine", build=lambda config, *, num_tasks: surgery(combine=combined))
    agent(surgery=Config())
    assert ((2, 3) in found) == each_member and (3,) in found  # the actor is no ensemble


def test_a_weighting_from_outside_that_does_not_begin_its_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type("Own", (Weighting,), {"__init__": lambda self: None})
    outside.add(monkeypatch, WEIGHTINGS, "mine", build=lambda config, *, num_tasks: made())
    refused(r"Own, of weighting=mine, should be one whose __init__ calls super", weighting=Mine())


def test_a_trial_leaves_state_and_random_numbers_of_a_surgery_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def coefficients(self: Any, gramian: Tensor, primary: Tensor, noise: Tensor) -> Tensor:
        self.calls += 1
        return noise

    def noise(self: Any, num_tasks: int, generator: Any, device: Any) -> Tensor:
        return torch.rand(num_tasks, generator=generator) + torch.rand(num_tasks)

    members = {"coefficients": coefficients, "noise": noise, "calls": 0}
    outside.add(monkeypatch, SURGERIES, "mine", build=lambda config, *, num_tasks: surgery(**members))
    made = agent(surgery=Mine())
    found = torch.rand(3)
    agent(surgery="pcgrad")
    assert torch.equal(found, torch.rand(3)) and made.critic_optimizer.surgery.calls == 0
