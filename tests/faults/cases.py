"""The runs that are disturbed, one of each trainer."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import time
from pathlib import Path

from tests.faults.commands import Command, outcome, run_in

COMMON = ["device=cpu", "threads=1", "experiment=x", "video=false", "training.final_episodes=1"]
SMALL = ["steps=120", "network.width=16", "network.depth=1", "training.evaluation_episodes=1"]
SHORT = ["benchmark.horizon=40", "training.evaluate_every=60", *SMALL]
POINT = ["benchmark.num_tasks=3", "network.width=16", "network.depth=1"]
TWO = "tasks=[reach_target,push_button]"
TRAINERS: dict[str, tuple[int, int, list[str]]] = {
    "sac": (50, 6, ["benchmark=mt10", "training.learning_starts=30", "agent.batch_size=8", *SHORT]),
    "ppo": (50, 6, ["benchmark=mt10", "agent=ppo", "training=on_policy", "training.envs_per_task=1",
                    "training.rollout_steps=16", "agent.minibatches=2", *SHORT]),
    "pushing": (20, 6, ["recipe=pushing", "benchmark.num_goals=20", "benchmark.held_out_goals=5",
                        "training.learning_starts=30", "training.buffer_size=200", *SHORT]),
    "cloning": (20, 1, ["recipe=keyframes", "benchmark.image_size=16", "network.channels=[4,8]", "agent.batch_size=2",
                        TWO, "steps=20", "training.cache=../given"]),
    "supervised": (20, 64, ["benchmark=digits", "network.width=8", "steps=1280", "training.evaluate_every=640"]),
    "auxiliary": (20, 50, ["recipe=auxiliary_digits", "network.width=8", "steps=1000", "training.evaluate_every=500"]),
    "batch": (20, 3, ["recipe=mbml", *POINT, "steps=60", "training.data=../given", "agent.teacher_updates=20",
                      "agent.batch_size=8", "agent.context_size=8", "training.evaluate_every=30",
                      "training.evaluation_episodes=1"]),
    "dense": (20, 8, ["benchmark=scenes", "benchmark.root=../given", "benchmark.train_scenes=40",
                      "benchmark.test_scenes=4", "network.scale=0.05", "network.head_width=8", "agent.batch_size=4",
                      "steps=160", "training.evaluate_every=80"]),
    "grasping": (20, 16, ["benchmark=clutter", "benchmark.root=../given", "benchmark.train_scenes=4",
                          "benchmark.test_scenes=1", "network.width=4", "network.fc_width=8", "agent.batch_size=8",
                          "steps=320", "training.evaluate_every=160"]),
}  # fmt: skip
"""Trainer -> how often it is killed in all, steps between two checkpoints, and the options of a run of seconds."""
PREPARE = {
    "cloning": [["demos", "collect", "benchmark=keyframes", "benchmark.image_size=16", TWO, "--episodes", "2", "--jobs",
                 "1", "--output", "../given"]],
    "batch": [["train", "recipe=point", *POINT, *COMMON, "steps=100", "training.learning_starts=50"],
              ["data", "collect", "runs/point/x/seed_1", "--episodes", "4", "--random", "1", "--output", "../given"]],
}  # fmt: skip
"""Trainer -> commands that make its data, in the folder `given`."""

DEVICES = ("mujoco.egl", "mujoco.osmesa", "mujoco.glfw", "OpenGL")
"""Modules that open what a forked process cannot use."""


class Case:
    """A trainer's run in the work folder, once undisturbed: it tells how runs must end and how long they take."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.work = name, work / name
        _, every, options = TRAINERS[name]
        often = [f"training.log_every={every}", f"training.checkpoint_every={every}"]
        self.words = ["train", *options, *often, *COMMON]
        if not (self.work / "given").exists():
            for number, words in enumerate(PREPARE.get(name, [])):
                _require(Command(words, self.work / "data", f"{number}").finish())
        shutil.rmtree(self.work / "whole", ignore_errors=True)
        command = Command(self.words, self.work / "whole")
        command.wait(command.begun)
        started = time.monotonic()
        _require(command.finish())
        self.seconds = time.monotonic() - started
        self.wanted = outcome(run_in(self.work / "whole"))
        for module in command.modules.read_text().splitlines():
            if not module.startswith(DEVICES):
                with contextlib.suppress(Exception):  # some have names that are no modules'
                    importlib.import_module(module)
        again, begin = Command(self.words, self.fresh("again")), time.monotonic()
        again.wait(again.begun)
        self.seconds_to_start = time.monotonic() - begin
        again.kill()

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.work / name, ignore_errors=True)
        return self.work / name

    def differences(self, folder: Path) -> list[str]:
        """In what a run's end differs from the undisturbed one's."""
        found = outcome(run_in(folder))
        return [name for name, value in self.wanted.items() if value != found[name]]


def _require(command: Command) -> None:
    if command.code != 0:
        raise SystemExit(f"faults: an undisturbed command should succeed. Found:\n{command.text()[-2000:]}")
