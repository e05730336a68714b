"""The one command for owners of a GPU: it says so where there is none, and judges what it measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl.bench import update

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


def test_the_rows_it_looks_for_are_those_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "updates", lambda *_, **__: lambda: None)
    rows = update.gpu_rows("mt10", ["pcgrad"], 2, "cuda")
    assert {"none plain tf32", "pcgrad compiled tf32", "pcgrad captured bfloat16"} < {row["update"] for row in rows}
    assert all(row["suite"] == "mt10" and row["ratio"] > 0 for row in rows)


def test_what_it_checks() -> None:
    timed = {"rows": [{"suite": "mt10", "update": "pcgrad compiled tf32", "ms": 0.7}]}
    train = {"summary": [{"of_larger": {"side_by_side": 1.1}}]}
    assert [holds for holds, _ in module().checks(0, timed, train).values()] == [True, False, True]
