"""Where a result comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl.monitoring import provenance


def test_code_is_dirty_where_the_package_changed_and_not_where_results_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # as in a hook of git
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    source = tmp_path / "mtrl" / "monitoring" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("code = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.collect()["git"] is None, "no repository"
    name = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "code"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("task\n")
    found = provenance.collect()["git"]
    assert found is not None and len(found["commit"]) == 40 and not found["dirty"]
    (tmp_path / "mtrl" / "new.py").write_text("code = 2\n")
    assert provenance.collect()["git"] == {**found, "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.collect()["git"] is None, "git is not installed"


def test_the_command_is_one_to_type_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/somewhere/bin/mtrl", "/somewhere/mtrl/cli.py"):
        monkeypatch.setattr(sys, "argv", [program, "train", "seed=2"])
        assert provenance.collect()["command"] == ["mtrl", "train", "seed=2"]
    for command in (["scripts/figure4.py", "--quick"], ["/else/cli.py", "x"], ["/else/pytest/__main__.py"]):
        monkeypatch.setattr(sys, "argv", command)
        assert provenance.collect()["command"] == command
