"""mtrl bench cloning: updates per second of behaviour cloning, and the share of time spent in them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.agents import AGENTS
from mtrl.bench.report import machine
from mtrl.core.specs import KeyframeSpec
from mtrl.data.demo_cache import CacheWriter
from mtrl.data.demos import POLICY_CAMERAS, CameraModel, Demo, Frame, Image
from mtrl.gradients import Methods
from mtrl.networks.keyframes import KEYFRAME_NETWORKS
from mtrl.training import TRAININGS

TASKS, SIZE, STAGES, BATCH = 10, 64, 4, 8
CHANNELS = [16, 32, 64]
"""The channels of `network=keyframe_small`."""


@dataclass
class _Suite:
    """The part of a suite that the trainer uses."""

    name: str
    spec: KeyframeSpec

    def check_evaluation(self) -> None:
        """Accepts every setting, since no episodes are played."""


def measure(quick: bool = False) -> dict[str, Any]:
    """Updates per second, milliseconds per update, and the share of time in updates.

    The rows are joint training, PCGrad, and joint training on pictures that are shifted at random (`moved pictures`).
    There are ten tasks with the sizes of `recipe=keyframes`, and a memory-mapped cache of random demonstrations. The
    rest of the time is spent waiting for the next batch, which is gathered during the update.
    """
    demos, updates = (2, 3) if quick else (100, 40)
    with tempfile.TemporaryDirectory() as folder:
        suite = _write(Path(folder), demos)
        cases = {"joint": ("none", 0), "pcgrad": ("pcgrad", 0), "moved pictures": ("none", 2)}
        rows = [_row(name, suite, folder, updates, *case) for name, case in cases.items()]
    return {"bench": "cloning", "machine": machine(), "rows": rows}


def _write(folder: Path, demos: int) -> _Suite:
    suite = _Suite("noise", KeyframeSpec(tuple(f"task{t}" for t in range(TASKS)), POLICY_CAMERAS, SIZE))
    rng = np.random.default_rng(0)
    for task in suite.spec.tasks:
        with CacheWriter(folder / suite.name, task, POLICY_CAMERAS, SIZE) as writer:
            for demo in _noise(rng, task, demos):
                writer.add(demo)
    return suite


def _noise(rng: np.random.Generator, task: str, demos: int) -> Iterator[Demo]:
    """Yield demonstrations in which the gripper changes at every frame: of frames 0 to 4, 1, 2 and 4 are keyframes."""
    camera = CameraModel(np.eye(4), np.diag([-SIZE, -SIZE, 1.0]), 0.01, 3.5)
    for _ in range(demos):
        frames = []
        for stage in range(STAGES + 1):
            pose = np.append(rng.normal(size=3), [0.0, 0, 0, 1])
            frames.append(Frame(pose, float(stage % 2), np.ones(7), np.zeros(7)))
            for name in POLICY_CAMERAS:
                rgb = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                frames[-1].cameras[name] = camera
                frames[-1].images[name] = Image(rgb, rng.uniform(0.5, 2, (SIZE, SIZE)))
        yield Demo(task, frames)


def _row(name: str, suite: _Suite, folder: str, updates: int, surgery: str, shift: int) -> dict[str, Any]:
    network = KEYFRAME_NETWORKS.config_class("keyframe")(channels=CHANNELS, rotation_width=128, rotation_channels=8)
    agent = AGENTS.build(
        AGENTS.config_class("bc")(batch_size=BATCH),
        network=network,
        methods=Methods.of(surgery),
        spec=suite.spec,
    )
    config = TRAININGS.config_class("behaviour_cloning")(cache=folder, shift=shift)
    trainer = TRAININGS.build(config, agent=agent, suite=suite, seed=0, steps=updates).start()
    for _ in range(2):
        trainer.advance()
    before, begin = trainer.seconds["update"], time.perf_counter()
    for _ in range(updates):
        trainer.advance()
    seconds = time.perf_counter() - begin
    trainer.close()
    share = (trainer.seconds["update"] - before) / seconds
    return {"training": name, "updates_per_second": updates / seconds, "ms": 1e3 * seconds / updates, "share": share}
