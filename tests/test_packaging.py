"""What an installation puts on a user's machine, and what the repository's top level holds."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtrl
from mtrl.core import errors

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("agents", "envs", "configs")
TINY = [
    "steps=6", "device=cpu", "network.width=8", "benchmark.horizon=4", "training.log_every=3",
    "training.envs_per_task=1", "training.rollout_steps=3", "training.final_episodes=1", "agent.epochs=1",
    "agent.minibatches=1", "video=false",
]  # fmt: skip


def distribution_requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("mtrl-toolkit") or []]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, and the wheel built from it, without a network; links are there too."""
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix != ".log":
            shutil.copy(path, source / path.name)
    for name in ("mtrl", "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKS:
        (source / name).symlink_to(os.readlink(ROOT / name))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> list[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]


def test_the_source_distribution_holds_the_package_and_what_belongs_to_it(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {PurePosixPath(member.name) for member in archive if member.isfile()}
    top = {path.parts[1] for path in names if len(path.parts) == 2}
    assert {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "constraints.txt"} <= top
    assert {path.parts[1] for path in names if len(path.parts) > 2} == {"mtrl", "mtrl_toolkit.egg-info"}


def test_the_installed_wheel_trains_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """Its code, presets and page are those of the wheel, as nothing of the repository is on the path."""
    place, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    where = [sys.executable, "-c", "import mtrl; print(mtrl.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == place / "mtrl/__init__.py"
    done = subprocess.run(
        [sys.executable, "-m", "mtrl.cli", "train", "recipe=quick", *TINY],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len([*elsewhere.rglob("result.json")]) == 1


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


def test_a_missing_extra_is_named_so_that_it_can_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone the advice uses the clone's own files, which an installed package does not have."""
    assert "pip install -e '.[video]' -c constraints.txt" in str(errors.missing("Videos", "imageio", "video"))
    monkeypatch.setattr(errors, "_CONSTRAINTS", tmp_path / "constraints.txt")
    told = str(errors.missing("Videos", "imageio", "video"))
    assert "mtrl-toolkit again as before, with its extra [video]. Found no imageio." in told


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


def test_one_version_is_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## \[(\d.*?)\]", changes, flags=re.MULTILINE)[0]
    assert mtrl.__version__ == version("mtrl-toolkit") == citation["version"] == newest


def test_the_package_says_what_it_has() -> None:
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
