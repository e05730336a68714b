"""What an installation puts on a user's machine, and what the repository's top level holds."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtrl

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("agents", "envs", "configs")


def distribution_requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("mtrl-toolkit") or []]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> list[PurePosixPath]:
    """The files of a wheel built, without a network, from a copy of the sources, links included."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    for name in ("mtrl", "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKS:
        (source / name).symlink_to(os.readlink(ROOT / name))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "wheel"]
    built = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=source)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (source / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]


def test_the_wheel_holds_only_mtrl_at_its_top(wheel_files: list[PurePosixPath]) -> None:
    assert {path.parts[0] for path in wheel_files} == {"mtrl", "mtrl_toolkit-0.1.0.dist-info"}


def test_the_wheel_holds_all_sources_and_presets(wheel_files: list[PurePosixPath]) -> None:
    package = ROOT / "mtrl"
    presets, page = (package / "configs").rglob("*.yaml"), (package / "report").glob("page.*")
    sources = [*package.rglob("*.py"), *presets, *page, package / "py.typed"]
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    assert any(name.endswith(".yaml") for name in expected)
    assert {str(path) for path in wheel_files if path.parts[0] == "mtrl"} == expected


def test_the_wheel_holds_the_licences(wheel_files: list[PurePosixPath]) -> None:
    names = {path.name for path in wheel_files if path.parts[0] != "mtrl"}
    assert {"LICENSE", "NOTICE"} <= names


@pytest.mark.parametrize("name", LINKS)
def test_the_top_level_links_point_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert os.readlink(link) == f"mtrl/{name}"
    assert link.resolve() == (ROOT / "mtrl" / name).resolve()
    assert link.is_dir()


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "mtrl").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_version_is_the_distributions() -> None:
    assert mtrl.__version__ == version("mtrl-toolkit") == "0.1.0"
    assert "load_policy" in dir(mtrl)
    with pytest.raises(AttributeError, match="has no attribute 'load_polcy'"):
        mtrl.__getattr__("load_polcy")


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="mtrl")
    assert command.value == "mtrl.cli:main"


def test_metadata_lives_in_one_file() -> None:
    assert "[project]" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["options.packages.find"]["include"].split() == ["mtrl", "mtrl.*"]


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    pinned = pins()
    for requirement in distribution_requirements():
        name = canonicalize_name(requirement.name)
        if name == "mtrl-toolkit":
            continue
        assert name in pinned, f"{name} is missing from constraints.txt"
        (specifier,) = pinned[name].specifier
        assert specifier.operator == "=="
        assert specifier.version in requirement.specifier, f"{pinned[name]} does not satisfy {requirement}"


def test_the_constraints_are_sorted_and_admit_every_build_of_torch() -> None:
    pinned = pins()
    assert list(pinned) == sorted(pinned)
    assert "2.13.0+cpu" in pinned["torch"].specifier
    assert "2.13.0+cu130" in pinned["torch"].specifier


def test_other_projects_of_the_simulators_names_are_never_required() -> None:
    """On the package registry `pyrep` and `metasim` are other projects than the simulator's."""
    required = {canonicalize_name(requirement.name) for requirement in distribution_requirements()}
    assert not {"pyrep", "metasim", "rlbench"} & (required | set(pins()))


def test_the_makefile_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(f"""#!/bin/sh
[ "$1" = -c ] || exit 99
code=$(printf '%s' "$2" | sed 's/v = sys.version_info/v = (3, 9, 2)/')
exec "{sys.executable}" -c "$code"
""")
    old.chmod(0o755)
    refused = make("train", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert re.match(r"mtrl needs Python 3\.11 to 3\.13; .* is 3\.9\. .*", refused.stderr)
    assert refused.returncode == 2
    assert not (tmp_path / "venv").exists()


def test_the_makefile_refuses_a_missing_python_in_one_line(tmp_path: Path) -> None:
    refused = make("train", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert refused.stderr.startswith("mtrl needs Python 3.11 to 3.13; `no-such-python` was not found.")
    assert refused.returncode == 2


def test_the_makefile_lists_its_targets() -> None:
    listed = make().stdout
    assert all(f"make {target} " in listed for target in ("train", "test", "lint", "test-parity", "test-grid", "bench"))


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make on its own, as a newcomer would: nothing of an outer make reaches it."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--directory", str(ROOT), "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
