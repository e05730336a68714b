"""Every command in the README runs: with tiny sizes, in a scratch folder, in the README's order."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mtrl import cli, experiment
from mtrl.data import fetch
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable
from tests.support.image_files import archive, cifar100

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = [
    "steps=6", "device=cpu", "training.learning_starts=2", "training.log_every=3", "training.final_episodes=1",
    "video=false", "agent.batch_size=2", "network.width=8", "benchmark.horizon=4", "training.buffer_size=10",
]  # fmt: skip
OFF_POLICY = ("training.learning_starts=2", "agent.batch_size=2", "training.buffer_size=10")
TINY_ROLLOUTS = ["training.envs_per_task=1", "training.rollout_steps=3", "agent.epochs=1", "agent.minibatches=1"]
TINY_CLONING = [
    "steps=2", "device=cpu", "training.log_every=1", "training.final_episodes=1", "video=false", "agent.batch_size=2",
    "benchmark.tasks=[stack_wine]",
]  # fmt: skip
TINY_PUSHING = ["benchmark.num_goals=3", "benchmark.goals_per_rollout=2", "benchmark.held_out_goals=2"]
MT = ("mt1", "mt10", "mt25", "mt50", "custom", "toy", "gymnasium")
TINY_IMAGES = ["steps=8", "device=cpu", "training.log_every=4", "agent.batch_size=4"]
SMALLER = {
    "vgg16": ["network.scale=0.03"], "conv": ["network.width=2", "network.fc_width=4"],
    "conv_mint": ["network.width=2", "network.fc_width=4"],
}  # fmt: skip
RUN = ["experiment=RUN", "surgery=pcgrad", "diagnostics=[triad,transference]"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
TRAIN = [line for line in COMMANDS if line.startswith("mtrl train")]
OTHER = [line for line in COMMANDS if line.startswith("mtrl ") and line not in TRAIN]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two runs that the README's examples name, and the same as another method's."""
    path = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for seed in (1, 2):
            assert cli.main(["train", "benchmark=mt10", *TINY, *RUN, f"seed={seed}"]) == 0
        shutil.copytree("runs/mt10/RUN", "runs/mt10/OTHER")
    return path


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demonstrations of the one task that the examples of cloning are run on."""
    try:
        offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("cloning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        collect = ["demos", "collect", "benchmark=keyframes", "benchmark.image_size=64", "--episodes", "2"]
        assert cli.main([*collect, "benchmark.tasks=[stack_wine]", "--jobs", "1"]) == 0
    return path


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
    if config.benchmark.kind.startswith("cifar"):
        cifar100(Path("data"), 400)
    else:
        pytest.importorskip("sklearn", reason="the extra `vision` is not installed")
    labels = ["agent.ppo.rollout_size=8", "agent.reward_size=4"] if config.agent.kind == "auxiliary" else []
    return [*TINY_IMAGES, *SMALLER[config.network.kind], *labels, "benchmark.train_size=12"]


@pytest.mark.parametrize("line", TRAIN)
def test_training_commands_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    cloning = any(word.endswith("=keyframes") for word in words(line))
    monkeypatch.chdir(request.getfixturevalue("demos") if cloning else tmp_path)
    assert cli.main([*words(line), *tiny(line)]) == 0


@pytest.mark.parametrize("line", OTHER)
def test_other_commands_run(
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(folder)
    arguments = words(line)
    if arguments[0] == "demos":
        request.getfixturevalue("demos")
        arguments += ["--episodes", "1", "--jobs", "1", "benchmark.tasks=[stack_wine]"]
    if arguments[0] == "data":
        Path("served.tar.gz").write_bytes(archive({"cifar-100-python/train": b""}))
        served = fetch.Source(Path("served.tar.gz").resolve().as_uri(), fetch.md5(Path("served.tar.gz")))
        monkeypatch.setitem(fetch.SOURCES, arguments[2], (served,))
    if arguments[0] == "evaluate":
        arguments += ["--episodes", "1"]
    if arguments[0] == "bench":
        arguments += ["--quick", "--suites", "mt10"]
    if arguments[0] in ("report", "compare") or (arguments[0] == "plot" and len(arguments) > 2):
        pytest.importorskip("rliable", reason="the extra `statistics` is not installed")
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


@pytest.mark.parametrize("source", blocks("python"))
def test_python_examples_run(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    try:
        exec(compile(source, "README.md", "exec"), {})
    except RenderingUnavailable as error:
        pytest.skip(str(error))


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"make ([a-z-]+)", README))
    assert {"train", "test"} <= targets
    for target in targets:
        command = ["make", "--dry-run", target]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0, target


def test_every_kind_of_command_is_one_that_is_tested() -> None:
    """Docker needs an engine that no test machine has; its script is run by hand (see docker/mujoco)."""
    assert {line.split()[0] for line in COMMANDS} <= {"mtrl", "make", "docker", "apt-get"}


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"\]\(((?:results|docs|docker|mtrl|examples)/[^)#]*)\)", README)
    assert not [name for name in named if not (ROOT / name).exists()]
