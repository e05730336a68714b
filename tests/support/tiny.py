"""Options that make the commands of README and docs/ take seconds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mtrl import experiment
from tests.support.image_files import cifar100

TINY = [
    "steps=6", "device=cpu", "training.learning_starts=2", "training.log_every=3", "training.final_episodes=1",
    "video=false", "agent.batch_size=2", "network.width=8", "benchmark.horizon=4", "training.buffer_size=10",
]  # fmt: skip
OFF_POLICY = ("training.learning_starts=2", "agent.batch_size=2", "training.buffer_size=10")
TINY_ROLLOUTS = ["training.envs_per_task=1", "training.rollout_steps=3", "agent.epochs=1", "agent.minibatches=2"]
TINY_CLONING = [
    "steps=2", "device=cpu", "training.log_every=1", "training.final_episodes=1", "video=false", "agent.batch_size=2",
    "benchmark.tasks=[stack_wine]",
]  # fmt: skip
TINY_PUSHING = ["benchmark.num_goals=3", "benchmark.goals_per_rollout=2", "benchmark.held_out_goals=2"]
MT = ("mt1", "mt10", "mt25", "mt50", "custom", "toy", "gymnasium")
TINY_IMAGES = ["steps=8", "device=cpu", "training.log_every=4", "agent.batch_size=4"]
TINY_SCENES = [
    "benchmark.train_scenes=4", "benchmark.test_scenes=2", "benchmark.image_size=16", "network.scale=0.03",
    "network.head_width=2", "network.rates=[1]",
]  # fmt: skip
TINY_CLUTTER = [
    "benchmark.train_scenes=2", "benchmark.test_scenes=1", "benchmark.attempts=4", "training.final_episodes=1",
]  # fmt: skip
SMALLER = {
    "vgg16": ["network.scale=0.03"], "conv": ["network.width=2", "network.fc_width=4"],
    "conv_mint": ["network.width=2", "network.fc_width=4"],
}  # fmt: skip


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


def tiny(line: str) -> list[str]:
    """What makes a training command take seconds; CIFAR-100 gets files to read."""
    config = experiment.compose(experiment.sweep([word for word in words(line)[1:] if not word.startswith("--")])[0])
    if config.training.kind == "on_policy":
        return [*(option for option in TINY if option not in OFF_POLICY), *TINY_ROLLOUTS]
    if config.benchmark.kind in MT:
        return TINY
    if config.benchmark.kind == "pushing":
        return [*TINY, *TINY_PUSHING]
    if config.benchmark.kind == "keyframes":
        small = [] if config.agent.kind == "mean_pose" else ["network.channels=[4,8]"]
        return [*TINY_CLONING, f"experiment={abs(hash(line))}", *small]
    if config.benchmark.kind == "clutter":
        return [*TINY_IMAGES, *TINY_CLUTTER, *SMALLER["conv"]]
    if config.benchmark.kind == "scenes":
        return [*TINY_IMAGES, *TINY_SCENES]
    if config.benchmark.kind.startswith("cifar"):
        cifar100(Path("data"), 400)
    else:
        pytest.importorskip("sklearn", reason="the extra `vision` is not installed")
    labels = ["agent.ppo.rollout_size=8", "agent.reward_size=4"] if config.agent.kind == "auxiliary" else []
    return [*TINY_IMAGES, *SMALLER[config.network.kind], *labels, "benchmark.train_size=12"]
