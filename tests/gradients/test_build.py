"""Which methods go with which networks and losses, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtrl.agents import AGENTS
from mtrl.agents.sac import SAC
from mtrl.core.errors import UserError
from mtrl.gradients import SURGERIES, WEIGHTINGS, build_optimizer
from mtrl.gradients.base import primary_tasks
from mtrl.networks import NETWORKS
from tests.support.gradient_toys import A, B, O, Regression, T, config, transitions

TASKS = ["reach", "push", "pick"]
POSITIVE = ("uncertainty", "imtl_l", "dwa", "gradnorm", "famo", "geometric_mean")


def agent(weighting: Any = "equal", surgery: Any = "none", network: str = "multi_head") -> SAC:
    torch.manual_seed(0)
    return AGENTS.build(
        AGENTS.config_class("sac")(batch_size=B),
        network=config(NETWORKS, network, width=8, depth=2),
        weighting=config(WEIGHTINGS, weighting) if isinstance(weighting, str) else weighting,
        surgery=config(SURGERIES, surgery) if isinstance(surgery, str) else surgery,
        num_tasks=T,
        tasks=TASKS,
        observation_size=O,
        action_size=A,
    )


def refused(match: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as error:
        agent(*arguments, **options)
    assert "\n" not in str(error.value)


def test_primary_tasks_by_name_and_index() -> None:
    assert primary_tasks("p", ["push", 2], TASKS, T).tolist() == [False, True, True]
    assert primary_tasks("p", [], TASKS, T).all()
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
    with pytest.raises(UserError, match=r"weighting.actor_weights.*critic or equal.*positive losses"):
        config(WEIGHTINGS, kind, actor_weights="own")


def test_without_a_critic_its_weights_are_refused() -> None:
    problem = Regression()
    with pytest.raises(UserError, match=r"uncertainty.*stay positive, or beside a critic"):
        problem.optimizer("uncertainty", "none", part="actor")


@pytest.mark.parametrize("part", ["actor", "critic", "both"])
@pytest.mark.parametrize("kind", ["pcgrad", "graddrop", "cosine_regularization", "gcs"])
def test_surgery_is_for_actor_critic_or_both(kind: str, part: str) -> None:
    made = agent(surgery=config(SURGERIES, kind, apply_to=part))
    assert (made.actor_optimizer.surgery is not None) == (part in ("actor", "both"))
    assert (made.critic_optimizer.surgery is not None) == (part in ("critic", "both"))


SURGERY = [kind for kind in SURGERIES.kinds if kind != "none"]


@pytest.mark.parametrize("kind", SURGERY)
def test_surgery_needs_shared_parameters(kind: str) -> None:
    refused("shares none", surgery=kind, network="independent")


def test_gradnorm_needs_shared_parameters() -> None:
    refused("shares none", "gradnorm", network="independent")


@pytest.mark.parametrize("kind", ["gcs", "pcd"])
def test_a_primary_task_is_required(kind: str) -> None:
    refused("surgery.primary.*that count", surgery=SURGERIES.config_class(kind)())


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
        config(SURGERIES, kind, per_critic=True)


def test_temperatures_are_an_agents() -> None:
    problem = Regression()
    with pytest.raises(UserError, match="temperatures"):
        problem.train(problem.optimizer("softmax_temperature", "none"), 1)


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
        (SURGERIES, "pcgrad", "apply_to", "critics"),
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
    optimizer = torch.optim.SGD(problem.network.parameters(), lr=0.0)
    made = build_optimizer(problem.network, optimizer, config(WEIGHTINGS, "stch"), config(SURGERIES, "none"))
    weights = problem.train(made, 1)[0]["weight"]
    torch.testing.assert_close(made.state_dict()["last_weights"].double(), weights)
