"""The one command for owners of a GPU: it says so where there is none, and judges what it measured."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtrl import cli
from mtrl.agents import AGENTS
from mtrl.agents.sac import SAC
from mtrl.bench import train, update
from mtrl.envs import SUITES
from mtrl.envs.metaworld.engine import BatchedEnvs
from tests.support.clock import Beside, Clock

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gpu_check.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--output", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "gpu_check: a CUDA GPU should be visible to PyTorch. Found none.\n"
    assert not list(tmp_path.iterdir())


SUBPROCESS: dict[str, Any] = {"PIPE": subprocess.PIPE, "SubprocessError": subprocess.SubprocessError}
MS = {"none plain tf32": 2.0, "none compiled tf32": 0.25}
"""What one update is said to take; others 1 ms, PCGrad's compiled one what the test says."""


def updates_on_a_gpu(clock: Clock, pcgrad: float) -> Callable[..., Callable[[], None]]:
    """Stands for `update.updates`: the same options, whose updates only take time."""

    def updates(num_tasks: int, method: str, count: int, device: str, width: int, **options: Any) -> Callable[[], None]:
        config = AGENTS.config_class("sac")(**options)  # which refuses what is no option, or no choice of one
        assert device == "cuda" and config.updates_per_launch == count
        name = f"{method} {config.execution} {config.precision}"
        each = pcgrad if name == "pcgrad compiled tf32" else MS.get(name, 1.0)
        return lambda: clock.spend(count * each)

    return updates


def run_on(tests: int) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Stands for `subprocess.run`: the tests' exit code, and benches in this process, of training on the CPU."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "pytest" in command:
            assert all((SCRIPT.parents[1] / word).exists() for word in command if word.startswith("tests/"))
            return subprocess.CompletedProcess(command, tests)
        arguments = command[command.index("mtrl.cli") + 1 :]
        if arguments[1] == "train":
            arguments = ["cpu" if word == "cuda" else word for word in arguments if word != "--compiled"]
            arguments.append("--quick")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = cli.main(arguments)
        return subprocess.CompletedProcess(command, code, printed.getvalue())

    return run


@pytest.mark.parametrize(
    ("tests", "pcgrad", "slowness", "holding"),
    [(0, 0.5, 1.0, [True] * 3), (1, 0.5, 1.5, [False, True, False])],
    ids=["all-holds", "not-all"],
)
def test_it_judges_what_the_benches_measure(
    tests: int, pcgrad: float, slowness: float, holding: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durations are ours; the rows, their names and the figures in them are those of the benches."""
    clock, script = Clock(monkeypatch), module()
    monkeypatch.setattr(update, "updates", updates_on_a_gpu(clock, pcgrad))
    two = partial(SUITES.config_class("custom"), tasks=["reach-v3", "push-v3"])
    monkeypatch.setattr(train, "SUITES", SimpleNamespace(config_class=lambda _: two, build=SUITES.build))
    monkeypatch.setattr(train, "SIZES", {"tiny": train.Size(8, 4, 2, 0.5, 2)})
    monkeypatch.setattr("mtrl.training.off_policy.ThreadPoolExecutor", Beside(clock, slowness))
    clock.takes(BatchedEnvs, "step", 3.0)
    clock.takes(SAC, "update", 2.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("mtrl.core.cores.usable_device", lambda name, _: torch.device(name))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run_on(tests), **SUBPROCESS))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path / "found")])

    assert script.main() == (0 if all(holding) else 1)
    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "found").iterdir()}
    assert sorted(found) == ["checks_gpu.json", "train_gpu.json", "update_gpu.json"]
    checks = found["checks_gpu.json"]["checks"].values()
    assert [holds for holds, _ in checks] == holding
    assert [figure for _, figure in checks] == pytest.approx([tests, pcgrad, slowness])
    rows = {(row["suite"], row["update"]): row for row in found["update_gpu.json"]["rows"]}
    assert {suite for suite, _ in rows} == {"mt10", "mt50"} and len(rows) == 20
    assert rows["mt50", "none plain tf32"]["ratio"] == pytest.approx(8), "of the compiled joint update"
    assert rows["mt10", "pcgrad compiled tf32"]["ratio"] == pytest.approx(4 * pcgrad)
    assert found["update_gpu.json"]["command"].startswith("mtrl bench update --suites mt10,mt50")


@pytest.mark.parametrize("card", ["a card", "another card"])
def test_a_part_that_takes_too_long_fails_and_others_stay_if_they_are_of_this_card(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = module()

    def run(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run, **SUBPROCESS))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "update", "--output", str(tmp_path)])
    old = {script.CHECKS["update"]: [True, 0.5], script.CHECKS["train"]: [True, 1.0]}
    file = tmp_path / "checks_gpu.json"
    file.write_text(json.dumps({"gpu": card, "torch": torch.__version__, "checks": old}))
    assert script.main() == 1
    kept = {script.CHECKS["train"]: [True, 1.0]} if card == "a card" else {}
    assert json.loads(file.read_text())["checks"] == kept | {script.CHECKS["update"]: [False, None]}
