"""What docker/ says, as far as it can be checked without a container engine; `make check-image` runs the steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrl.arguments import parse
from scripts import check_image

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
SCRIPTS = sorted((ROOT / "docker").glob("*/*.sh"))
STEPS = [(path, rest) for path in DOCKERFILES for name, rest in check_image.instructions(path) if name == "RUN"]
DOCKER = check_image.instructions(ROOT / "docker/mujoco/Dockerfile")
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))["services"]


def tool(name: str) -> str:
    """The path of a linter, which may be installed beside Python."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine is sent."""
    path = tmp_path_factory.mktemp("context")
    check_image.let_through(path)
    return path


@pytest.mark.parametrize(("path", "rest"), STEPS, ids=[f"{path.parent.name}-{n}" for n, (path, _) in enumerate(STEPS)])
def test_a_step_is_one_script_that_its_mounts_hold(path: Path, rest: str, context: Path) -> None:
    mounts, command = check_image.run_step(rest)
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    assert words[0].startswith("/source/") and not set(command) & set(";&|")
    assert {mount["type"] for mount in mounts} == {"bind"}
    held = [context / m.get("source", ".") / os.path.relpath(words[0], m["target"]) for m in mounts]
    (script,) = {place.resolve() for place in held if place.exists()}
    assert os.access(script, os.X_OK)
    assert all((context / mount.get("source", ".")).exists() for mount in mounts)
    assert script.name == "install.sh" and script.parent.name == path.parent.name


def test_nothing_but_what_the_steps_read_is_sent(context: Path) -> None:
    assert {"results", "tests", "docs", ".git"}.isdisjoint(os.listdir(context))
    assert not [*context.rglob("__pycache__")]
    # What install.sh copies to build from is there.
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", "mtrl/cli.py"):
        assert (context / name).is_file(), name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "" and done.returncode == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = subprocess.run([tool("shellcheck"), str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "" and done.returncode == 0


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_is_nobodys_by_name_and_names_its_entry(path: Path) -> None:
    said = dict(check_image.instructions(path))
    assert said["USER"].isdigit() and said["USER"] != "0"
    assert json.loads(said["ENTRYPOINT"])[0].startswith("/opt/mtrl/bin/")


@pytest.mark.parametrize("variables", [{}, {"ARGS": "recipe=quick seed=2 steps=50000"}])
def test_the_trainers_command_is_a_command(variables: dict[str, str]) -> None:
    options = parse(shlex.split(check_image.filled(SERVICES["train"]["command"], variables)))
    assert options.command == "train" and "recipe=quick" in options.options


def test_both_services_are_of_one_image_and_see_the_same_runs() -> None:
    train, board = SERVICES["train"], SERVICES["tensorboard"]
    assert train["image"] == board["image"] == "mtrl"
    build = train["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).resolve() == ROOT / "docker/mujoco/Dockerfile"
    assert set(build["args"]) <= {rest.partition("=")[0] for name, rest in DOCKER if name == "ARG"}
    (written,), (read,) = train["volumes"], board["volumes"]
    assert {**written, "read_only": True} == read
    folder = dict(DOCKER)["WORKDIR"]
    assert written["target"] == f"{folder}/runs" and "--logdir runs" in board["command"]
    (port,) = board["ports"]
    assert port.startswith("127.0.0.1:") and f"--port {port.rpartition(':')[2]}" in board["command"]


def test_without_root_or_debootstrap_the_check_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/check_image.py")],
        env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("check_image.py should be run as root, with debootstrap") and not done.stdout
