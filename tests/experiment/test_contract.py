"""Benchmarks, training loops and agents fit by what they declare, and say in one line what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtrl.agents import AGENTS
from mtrl.configs import presets
from mtrl.core.errors import UserError
from mtrl.core.specs import ControlSpec, GoalSpec
from mtrl.envs import SUITES
from mtrl.experiment import Experiment, compose, compose_all
from mtrl.experiment.config import run_name
from mtrl.networks import NETWORKS
from mtrl.training import TRAININGS

CHOSEN = {"custom": ["reach-v3", "push-v3", "door-open-v3"]}
"""Tasks for the benchmarks that have none by default."""


def suite(kind: str) -> Any:
    return SUITES.build(SUITES.config_class(kind)(**({"tasks": CHOSEN[kind]} if kind in CHOSEN else {})))


@pytest.mark.parametrize("kind", SUITES.kinds)
def test_a_suite_gives_the_data_that_its_configuration_declares(kind: str) -> None:
    made = suite(kind)
    assert type(made.spec) is made.config.spec_type
    assert made.tasks == made.spec.tasks and len(set(made.tasks)) == made.spec.num_tasks > 0


@pytest.mark.parametrize("kind", SUITES.kinds)
def test_what_goes_with_a_benchmark_by_default_fits_it(kind: str) -> None:
    config = compose([f"benchmark={kind}", *(f"tasks=[{','.join(CHOSEN[k])}]" for k in CHOSEN if k == kind)])
    agent, training = AGENTS.config_class(config.agent.kind), TRAININGS.config_class(config.training.kind)
    spec = config.benchmark.spec_type
    assert spec in agent.specs and spec in training.specs and config.training.kind in agent.trainings


@pytest.mark.parametrize("recipe", ["quick", "mt10", "mt50", "sac_mt10"])
def test_every_network_goes_with_a_recipe(recipe: str) -> None:
    for kind in NETWORKS.kinds:
        found = compose([f"recipe={recipe}", f"network={kind}"])
        assert found.network.kind == kind and found.network.width == compose([f"recipe={recipe}"]).network.width


def test_what_a_recipe_sets_in_vain_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    compose_all([["recipe=quick", "network=mint"], ["recipe=quick", "network=mint", "seed=2"]])
    said = "recipe=quick sets network.task_code, which network=mint does not have. It is left out.\n"
    assert capsys.readouterr().err == said
    compose_all([["recipe=quick"], ["recipe=quick", "network=multi_head", "seed=2"]])
    assert capsys.readouterr().err == ""


def test_an_option_that_a_recipes_own_part_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, usual = presets.content("recipe/quick"), presets.content
    changed = {**whole, "network": {**whole["network"], "widht": 64}}
    monkeypatch.setattr(presets, "content", lambda name: changed if name == "recipe/quick" else usual(name))
    with pytest.raises(UserError, match=r"network\.widht.*'network\.width'"):
        compose(["recipe=quick"])


def test_choices_and_recipes_come_before_the_defaults_of_a_benchmark() -> None:
    assert compose(["benchmark=pushing"]).network.kind == "mint"
    assert compose(["benchmark=pushing", "network=film"]).network.kind == "film"
    assert compose(["benchmark=keyframes"]).steps == 8000
    assert compose(["benchmark=keyframes", "steps=5"]).steps == 5
    assert compose(["recipe=keyframes"]).network.channels == [16, 32, 64]


@pytest.mark.parametrize(
    ("options", "group", "option", "value"),
    [
        ("benchmark=cifar100 weighting=auto_lambda", "weighting", "learning_rate", 3e-4),
        ("recipe=cifar100 weighting=auto_lambda", "weighting", "learning_rate", 3e-4),
        ("recipe=cifar100 weighting=auto_lambda weighting.learning_rate=1e-3", "weighting", "learning_rate", 1e-3),
        ("benchmark=rlbench weighting=auto_lambda", "weighting", "learning_rate", 3e-5),
        ("benchmark=mt10 weighting=auto_lambda", "weighting", "learning_rate", 1e-4),
        ("benchmark=cifar100 weighting=dwa", "weighting", "window", 78),
        ("benchmark=mt10 weighting=dwa", "weighting", "window", 1000),
        ("recipe=cifar100", "network", "last_pool", "mean"),
        ("recipe=rl_aux", "network", "last_pool", "max"),
        ("benchmark=mt10 network=mint", "network", "width", 160),
        ("benchmark=mt50 network=mint", "network", "width", 150),
        ("benchmark=pushing", "network", "width", 200),
        ("recipe=pushing", "network", "width", 64),
        ("recipe=mint_baselines_mt50 network=film", "network", "width", 150),
        ("recipe=mint_baselines_mt50 network=film", "network", "depth", 6),
        ("recipe=mint_baselines_mt10", "network", "width", 160),
        ("recipe=mint_baselines_pushing network=concat_all", "network", "width", 200),
        ("recipe=mint_baselines_pushing", "training", "kind", "goal_conditioned"),
    ],
)
def test_one_command_gives_a_papers_settings(options: str, group: str, option: str, value: object) -> None:
    """Auto-λ paper, App. A; an epoch of CIFAR-100's tasks is 2,500 / 32 updates; Mint paper, App. B."""
    assert getattr(getattr(compose(options.split()), group), option) == value


def test_a_specification_is_matched_by_its_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goals are a kind of control, but an agent of plain control is not given them."""
    assert issubclass(GoalSpec, ControlSpec)
    for agent in ("sac", "td3"):
        monkeypatch.setattr(AGENTS.config_class(agent), "specs", (ControlSpec,))
    with pytest.raises(UserError, match=r"`agent` should be one that fits with training=goal_conditioned\. Found"):
        Experiment(compose(["benchmark=pushing"]))


WHOLE = ("mt1", "pushing", "clutter")
"""One task; tasks that are goals; tasks that are the two domains to be compared."""


@pytest.mark.parametrize("kind", [kind for kind in SUITES.kinds if kind not in WHOLE])
def test_every_benchmark_of_several_tasks_can_be_had_in_parts(kind: str) -> None:
    whole = suite(kind)
    chosen = whole.tasks[::-2]
    part = SUITES.build(whole.config.restricted(chosen))
    assert part.tasks == chosen and type(part.spec) is type(whole.spec)
    for wrong in (["nonsense!"], [chosen[0], chosen[0]]):
        with pytest.raises(UserError, match=r"`benchmark\.tasks`"):
            SUITES.build(whole.config.restricted(wrong))


def test_what_a_suite_cannot_do_it_refuses_in_one_line(tmp_path: Path) -> None:
    toy, pushing = suite("toy"), suite("pushing")
    refused = {
        "toy has no pictures": lambda: toy.film(None, tmp_path / "x.mp4", 0),
        "Benchmark toy should be one with experts": lambda: toy.demonstrations(0, 1),
        "Benchmark pushing should be one whose tasks can be chosen": lambda: pushing.config.restricted(["goal-001"]),
    }
    for message, call in refused.items():
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_one_task_is_chosen_by_its_name() -> None:
    assert compose(["benchmark=mt1", "task=push-v3"]).benchmark.tasks == ["push-v3"]
    assert compose(["benchmark=toy", "tasks=[turn-90,turn-0]"]).benchmark.tasks == ["turn-90", "turn-0"]


def test_runs_of_other_tasks_have_names_of_their_own() -> None:
    """Where the benchmark's name does not say what the tasks are, the experiment's name does."""
    for kind in ("toy", "mt10", "digit_domains"):
        tasks = suite(kind).tasks
        runs = [compose([f"benchmark={kind}", *more]) for more in ([], *([f"task={task}"] for task in tasks))]
        assert len({(run.benchmark.name, run_name(run)) for run in runs}) == 1 + len(tasks)
