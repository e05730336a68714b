"""Robots with hidden goals: rewards follow from the robots' positions, and observations do not show the goal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from mtrl import cli
from mtrl.envs import SUITES
from mtrl.envs.locomotion import HiddenGoal


@pytest.mark.parametrize("kind", ["goal_velocity", "goal_direction"])
def test_rewards_follow_from_the_robots_positions(kind: str) -> None:
    """They are computed from MuJoCo's state before and after a step, with the coefficients of the published code."""
    suite = SUITES.build(SUITES.config_class(kind)(num_tasks=2, unseen_tasks=2, horizon=30))
    env = suite.config.made("goal-1")
    assert isinstance(env, HiddenGoal)
    goal, data, rng = suite.config.goal_of("goal-1"), env.unwrapped.data, np.random.default_rng(0)  # type: ignore[attr-defined]
    env.reset(seed=0)
    for _ in range(10):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)  # type: ignore[arg-type]
        torso = (lambda: data.xpos[1].copy()) if kind == "goal_direction" else (lambda: data.qpos[:1].copy())
        before = torso()
        reward = env.step(action)[1]
        speed = (torso() - before) / 0.05
        if kind == "goal_velocity":
            wanted = -abs(speed[0] - goal) - 0.05 * (action.astype(float) ** 2).sum()
        else:
            contact = 5e-4 * (np.clip(data.cfrc_ext, -1, 1) ** 2).sum()
            wanted = speed[0] * math.cos(goal) + speed[1] * math.sin(goal) - 0.5 * (action.astype(float) ** 2).sum()
            wanted += 1 - contact
        assert reward == pytest.approx(wanted, abs=1e-6)


def test_pushing_is_that_of_the_shown_goal_without_the_goal() -> None:
    suite = SUITES.build(SUITES.config_class("hidden_push")(num_tasks=2, unseen_tasks=2, horizon=30))
    place = suite.config.goal_of("goal-1")
    assert 0.0 < place < 0.2 and suite.spec.observation_size == 22
    hidden, shown = suite.config.made("goal-1"), gymnasium.make("mtrl/GoalPush-v0")
    found, wanted = hidden.reset(seed=0)[0], shown.reset(options={"goal": [0.0, 0.65, place, 0.9]})[0]
    for _ in range(20):
        assert np.array_equal(found, wanted[:22])
        action = np.array([0.1, 1.0, -0.5, 0.0], np.float32)
        found, reward, _, _, info = hidden.step(action)
        wanted, wanted_reward, _, _, wanted_info = shown.step(action)
        assert reward == wanted_reward and info["distance"] == wanted_info["distance"]


@pytest.mark.parametrize(("kind", "actions"), [("goal_velocity", 6), ("hidden_push", 4)])
def test_tasks_differ_by_reward_alone_and_episodes_end_at_the_horizon(kind: str, actions: int) -> None:
    suite = SUITES.build(SUITES.config_class(kind)(num_tasks=2, unseen_tasks=3, horizon=5))
    assert suite.unseen.tasks == ("unseen-0", "unseen-1", "unseen-2")
    assert suite.spec.tells_success == (kind == "hidden_push")
    assert len(set(suite.unseen.description()["goals"].values())) == 3
    assert suite.description()["unseen_goals"] == suite.unseen.description()["goals"]
    envs = [suite.config.make(task) for task in suite.tasks]
    states = [env.reset(seed=3)[0] for env in envs]
    for number in range(5):
        assert np.array_equal(*states)
        steps = [env.step(np.full(actions, 0.5, np.float32)) for env in envs]
        states = [step[0] for step in steps]
        assert steps[0][1] != steps[1][1] and steps[0][3] == (number == 4)


def test_a_policy_from_data_is_judged_and_drawn_by_its_success_on_unseen_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["benchmark=hidden_push", "benchmark.num_tasks=2", "benchmark.unseen_tasks=2", "benchmark.horizon=5"]
    common += ["network.width=8", "network.depth=1", "device=cpu", "threads=1", "video=false"]
    made = ["train", "recipe=point", *common, "steps=20", "training.learning_starts=20", "training.final_episodes=1"]
    assert cli.main([*made, "experiment=data"]) == 0
    assert cli.main(["data", "collect", "runs/hidden_push/data/seed_1", "--episodes", "2", "--output", "sets"]) == 0
    learned = ["train", "recipe=mbml", *common, "steps=4", "agent.teacher_updates=2", "agent.batch_size=4"]
    learned += [
        "agent.context_size=4",
        "training.data=sets",
        "training.final_episodes=1",
        "training.context_episodes=1",
    ]
    assert cli.main([*learned, "experiment=mbml"]) == 0
    run = Path("runs/hidden_push/mbml/seed_1")
    result = json.loads((run / "result.json").read_text())
    assert {"unseen-0", "unseen-1"} == set(result["tasks"]) and result["headline"] == "success"
    assert (run / "learning_curves.png").stat().st_size > 5000 and (run / "report.html").exists()
