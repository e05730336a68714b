"""`mtrl demos`: what is collected or taken over is what training reads; what is there already stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.data.demo_cache import DemoCache, task_facts
from mtrl.data.demos import Demo
from mtrl.data.rlbench_layout import episodes, read_demo, write_demo
from mtrl.experiment import demonstrations
from tests.support.keyframe_toys import CAMERAS, SIZE, TASKS, ToySuite, demo


class Suites:
    """Stands for the registry: the toy suite under any benchmark with tasks."""

    @staticmethod
    def build(config: Any) -> ToySuite:
        return ToySuite(tuple(task for task in config.tasks if task in TASKS) or TASKS)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "SUITES", Suites)


OPTIONS = ["benchmark=rlbench", f"benchmark.image_size={SIZE}", "benchmark.cameras=[left_shoulder,front]"]


def test_collected_demonstrations_are_what_training_reads_and_stay_as_they_are(toys: None, tmp_path: Path) -> None:
    arguments = {"options": OPTIONS, "episodes": 3, "seed": 1, "output": tmp_path, "jobs": 1}
    folder = demonstrations.collect(**arguments)
    assert DemoCache(folder, TASKS, CAMERAS, SIZE).counts.tolist() == [6, 6]
    files = sorted(folder.rglob("*.bin"))
    for path in files:
        os.utime(path, ns=(0, 0))
    demonstrations.collect(**arguments)
    assert files and {path: path.stat().st_mtime_ns for path in folder.rglob("*.bin")} == dict.fromkeys(files, 0)
    with pytest.raises(UserError, match=r"should be new, or have \{'episodes': 4\}\. Found \{'episodes': 3\}"):
        demonstrations.collect(**{**arguments, "episodes": 4})


def whole(task: int, seed: int) -> Demo:
    """With pictures at every frame."""
    made = demo(task, np.random.default_rng(seed))
    for frame in made.frames:
        frame.images = frame.images or made.frames[0].images
    return made


def test_demonstrations_of_another_variation_are_others(
    toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = ToySuite.description
    for variation in (0, 1):
        monkeypatch.setattr(ToySuite, "description", lambda suite, v=variation: {**describe(suite), "variation": v})
        if variation == 0:
            demonstrations.collect(OPTIONS, 2, 1, tmp_path, jobs=1)
    with pytest.raises(UserError, match=r"should be new, or have \{'variation': 1\}\. Found \{'variation': 0\}"):
        demonstrations.collect(OPTIONS, 2, 1, tmp_path, jobs=1)


def test_a_cache_takes_no_other_folders_place(toys: None, tmp_path: Path) -> None:
    """Here that of demonstrations in RLBench's layout, which may be its own source."""
    folder = tmp_path / ToySuite(TASKS).name
    for task in range(len(TASKS)):
        write_demo(whole(task, 0), folder, 0)
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    for command in (
        lambda: demonstrations.cache(folder, OPTIONS, 1, tmp_path),
        lambda: demonstrations.collect(OPTIONS, 1, 1, tmp_path, jobs=1),
    ):
        with pytest.raises(UserError, match="should be new, or a cache, which is then replaced"):
            command()
    assert before and sorted(path for path in folder.rglob("*") if path.is_file()) == before


def test_rlbenchs_folders_become_a_cache(tmp_path: Path) -> None:
    for number in range(3):
        write_demo(whole(0, number), tmp_path / "data", number)
    options = [*OPTIONS, "benchmark.tasks=[red]"]
    folder = demonstrations.cache(tmp_path / "data", options, 2, tmp_path / "demos")
    cache = DemoCache(folder, ["red"], CAMERAS, SIZE)
    facts = task_facts(folder, "red")
    assert cache.counts.tolist() == [4] and facts is not None and facts["episodes"] == 2
    first = read_demo(episodes(tmp_path / "data", "red")[0], CAMERAS)
    seen = cache.batch(torch.tensor([[0]])).observation.rgb[0, 0, CAMERAS.index("front")]
    assert np.array_equal(seen, first.frames[0].images["front"].rgb)
    with pytest.raises(UserError, match=r"red should be of at least 4 demonstrations\. Found 3"):
        demonstrations.cache(tmp_path / "data", options, 4, tmp_path / "demos")


def test_a_cache_of_rlbench_is_trained_on_without_the_simulator_only_if_no_scores_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = whole(0, 0)
    made.task = "reach_target"
    write_demo(made, tmp_path / "data", 0)
    options = [*OPTIONS, "benchmark.tasks=[reach_target]"]
    demonstrations.cache(tmp_path / "data", options, None, tmp_path / "demos")
    small = ["network.channels=[8,8]", "network.patch=1", "network.embedding=8", "network.rotation_width=8"]
    places = [f"runs={tmp_path}/runs", f"training.cache={tmp_path}/demos", "video=false"]
    command = ["train", *options, *small, "agent.batch_size=2", "steps=2", "training.log_every=1", *places]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert "docker/rlbench/install.sh" in message and "training.final_episodes=0" in message
    assert message.count("\n") == 1 and not (tmp_path / "runs").exists()
    assert cli.main([*command, "training.final_episodes=0"]) == 0
    assert "Not evaluated" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").rglob("learning_curves.png"))) == 1


def test_pictures_of_another_size_are_named_with_the_option_that_fits_them(tmp_path: Path) -> None:
    write_demo(whole(0, 0), tmp_path / "data", 0)
    options = ["benchmark=rlbench", "benchmark.image_size=24", *OPTIONS[2:], "benchmark.tasks=[red]"]
    with pytest.raises(UserError) as caught:
        demonstrations.cache(tmp_path / "data", options, None, tmp_path / "demos")
    place = f"Picture of camera left_shoulder in frame 0 of {tmp_path}/data/red/variation0/episodes/episode0"
    wanted = "square and a multiple of 24 pixels (`benchmark.image_size`). Found '16 x 16'."
    assert str(caught.value) == f"{place} should be {wanted}"
    assert not (tmp_path / "demos").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demos", "collect", "benchmark=toy"], "Benchmark toy should be one with experts"),
        (["demos", "collect", "benchmark=rlbench", "--episodes", "0"], "--episodes` should be a positive integer"),
        (
            ["demos", "cache", "nowhere", "benchmark=rlbench"],
            "Folder nowhere/reach_target should be one with demonstrations",
        ),
        (["demos", "cache", "there", "benchmark=toy", "--episodes", "0"], "--episodes` should be a positive integer"),
        (["demos", "cache", "nowhere", "benchmark=toy"], "Benchmark toy should be one of keyframe tasks"),
        (["demos"], "arguments are required: ACTION"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
