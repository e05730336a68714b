"""The dependency arrows between the parts of mtrl, and the one place where each heavy library is imported.

    scripts, cli -> report -> experiment -> { agents | envs | training }
        -> { networks | gradients | data | monitoring } -> core

An arrow may skip a level, and never goes up or sideways. Benchmarks see neither networks nor gradients.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mtrl"

FOUNDATIONS = {"networks", "gradients", "data", "monitoring"}
PARTS = {"agents", "envs", "training"}

ARROWS: dict[str, set[str]] = {
    "core": set(),
    "execution": {"core"},
    "configs": {"core"},
    **{part: {"execution", "core"} for part in FOUNDATIONS},
    "agents": {*FOUNDATIONS, "execution", "core"},
    "training": {*FOUNDATIONS, "core"},
    "envs": {"data", "monitoring", "core"},
    "experiment": {*PARTS, *FOUNDATIONS, "configs", "core"},
    "report": {"experiment", "monitoring", "core"},
    "bench": {"experiment", *PARTS, *FOUNDATIONS, "execution", "core"},
    "arguments": {"core"},
    "completion": {"configs", "core", "experiment"},
    "cli": {"arguments", "completion", "bench", "report", "experiment", *PARTS, *FOUNDATIONS, "configs", "core"},
    "scripts": {"cli", "envs", "experiment", "monitoring"},
    # `import mtrl` must stay light: only `mtrl.load_policy` reaches further, on first use.
    "mtrl": {"experiment"},
}
"""What each part may import of mtrl, besides itself. A new part needs a row here."""

OWNERS: dict[str, tuple[str, ...]] = {
    "metaworld": ("mtrl.envs",),
    "mujoco": ("mtrl.envs",),
    "envpool": ("mtrl.bench",),
    "rlbench": ("mtrl.envs",),
    "pyrep": ("mtrl.envs",),
    "stable_baselines3": ("mtrl.agents.auxiliary", "mtrl.envs.metaworld.sb3"),
    "torchjd": ("mtrl.gradients",),
    "matplotlib": ("mtrl.monitoring",),
    "minari": ("mtrl.data.minari_files",),
    "rliable": ("mtrl.monitoring",),
    "ray": ("mtrl.core.cluster",),
    "optuna": ("mtrl.experiment.search",),
    "tensorboard": ("mtrl.monitoring",),
    "wandb": ("mtrl.monitoring",),
}
"""Where in mtrl each heavy library may be imported."""

LINKS = {"agents", "envs", "configs"}


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import in `tree`, wherever in the file it stands.

    `from a import b` gives `a.b`, so that `from mtrl import envs` is seen as an import of `mtrl.envs`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(node, module, is_package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            name = literal_import(node)
            if name is not None:
                yield node.lineno, name


def absolute_base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Return the absolute name of the module that a `from` statement names."""
    if node.level == 0:
        return node.module or ""
    package = module.split(".")
    package = package[: len(package) - node.level + is_package]
    return ".".join([*package, *([node.module] if node.module else [])])


def literal_import(call: ast.Call) -> str | None:
    """Return the name in `importlib.import_module("name")` or `__import__("name")`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in {"import_module", "__import__"} or not call.args:
        return None
    argument = call.args[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


def part_of(module: str) -> str:
    """Return the part of mtrl that a dotted name belongs to: `mtrl.networks.mlp` -> `networks`."""
    names = module.split(".")
    return names[1] if names[0] == "mtrl" and len(names) > 1 else names[0]


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each import in `source`, the text of `module`, that the rules forbid."""
    part = part_of(module)
    if part not in ARROWS:
        return [f"{module}: the part `{part}` has no row in ARROWS of {Path(__file__).name}"]
    found = []
    for line, name in imported_modules(ast.parse(source), module, is_package):
        top = name.split(".")[0]
        target = part_of(name)
        if top == "mtrl" and target in ARROWS and target not in {part, "mtrl", *ARROWS[part]}:
            found.append(f"{module}:{line}: {part} must not import {name}")
        if top in LINKS:
            found.append(f"{module}:{line}: {name} should be mtrl.{name}")
        owners = OWNERS.get(top, ())
        if owners and not any(f"{module}.".startswith(f"{owner}.") for owner in owners):
            found.append(f"{module}:{line}: {top} belongs to {' and '.join(owners)}")
    return found


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the repository: `mtrl/envs/__init__.py` -> `mtrl.envs`."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_follows_the_arrows(path: Path) -> None:
    found = violations(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mtrl.networks.mlp", "from mtrl.gradients import base"),
        ("mtrl.networks.mlp", "from mtrl import envs"),
        ("mtrl.networks.mlp", "from ..agents.sac import SAC"),
        ("mtrl.networks", "from ..agents import sac"),
        ("mtrl.core.types", "def f():\n    import mtrl.data.replay"),
        ("mtrl.core.types", "if TYPE_CHECKING:\n    from mtrl.experiment import run"),
        ("mtrl.envs.toy", "from mtrl.networks.mlp import MLP"),
        ("mtrl.agents.sac", "from mtrl.training.loop import train"),
        ("mtrl.experiment", "import mtrl.cli"),
        ("mtrl", "from mtrl.networks import mlp"),
        ("scripts.train_mt10", "from mtrl.agents import sac"),
        ("mtrl.training.loop", "import metaworld"),
        ("mtrl.environment", "import os"),
        ("mtrl.envs_old.suite", "import mujoco"),
        ("mtrl.networks.mlp", "import importlib\nimportlib.import_module('torchjd.aggregation')"),
        ("mtrl.agents.sac", "from matplotlib import pyplot"),
        ("mtrl.agents.sac", "import stable_baselines3"),
        ("mtrl.experiment", "from envs import suite"),
    ],
)
def test_the_checker_sees_a_violation(module: str, source: str) -> None:
    assert len(violations(source, module, is_package=module == "mtrl.networks")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mtrl.cli", "from mtrl.experiment import run\nfrom mtrl.core.errors import UserError"),
        ("mtrl.networks.mlp", "from mtrl.networks.base import TaskNetwork\nfrom . import layers\nfrom ..core import x"),
        ("mtrl.envs.metaworld.suite", "import mujoco\nfrom metaworld import evaluation"),
        ("mtrl.agents.auxiliary.ppo", "import stable_baselines3"),
        ("mtrl.core.types", "import mujoco_like\nfrom mtrl import __version__"),
        ("mtrl", "def __getattr__(name):\n    from mtrl.experiment import load_policy"),
    ],
)
def test_the_checker_lets_the_arrows_pass(module: str, source: str) -> None:
    assert violations(source, module, is_package=module == "mtrl") == []


def imports_of_tests(source: str, module: str) -> list[str]:
    """Return one line for each import in `source`, the text of `module` under tests/, from a module of tests."""
    found = imported_modules(ast.parse(source), module, is_package=False)
    return [f"{module}:{line}: {name}" for line, name in found if ".test_" in f".{name}"]


def test_no_test_module_is_imported() -> None:
    """What several test modules need lies in tests/support, so that each of them can be changed alone."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert Path(__file__).resolve() in files
    found = [line for path in files for line in imports_of_tests(path.read_text(encoding="utf-8"), module_name(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from tests.data import test_fetch",
        "from tests.data.test_fetch import archive",
        "import tests.data.test_fetch as other",
        "from .test_fetch import archive",
        "from test_fetch import archive",
        "import importlib\nimportlib.import_module('tests.data.test_fetch')",
    ],
)
def test_an_imported_test_module_is_seen(source: str) -> None:
    assert len(imports_of_tests(source, "tests.data.test_images")) == 1


def test_the_checker_reads_the_whole_package() -> None:
    read = {part_of(module_name(path)) for path in FILES}
    assert {"core", "mtrl", "scripts", *FOUNDATIONS, *PARTS} <= read


def test_the_arrows_have_no_cycle() -> None:
    depth: dict[str, int] = {}

    def visit(part: str, above: tuple[str, ...]) -> int:
        assert part not in above, f"{' -> '.join([*above, part])} is a cycle"
        depth[part] = 1 + max((visit(below, (*above, part)) for below in ARROWS[part]), default=0)
        return depth[part]

    assert all(visit(part, ()) < len(ARROWS) for part in ARROWS)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; [] where there are none."""
    left = {module: set(others) for module, others in arrows.items()}
    while ends := [module for module, others in left.items() if not others & left.keys()]:
        for module in ends:
            del left[module]
    way = [next(iter(left))] if left else []
    while way and way[-1] not in way[:-1]:
        way.append(min(left[way[-1]] & left.keys()))
    return way[way.index(way[-1]) :] if way else []


CIRCLES = {"mtrl.training.off_policy": "mtrl.training.collected"}
"""Imports that may close a circle: a function imports the subclass of a class of its module, to build either."""


def test_no_module_imports_one_that_imports_it() -> None:
    """However far around, also where the import waits for a call or is only for type checkers."""
    trees = {module_name(path): (ast.parse(path.read_text(encoding="utf-8")), path) for path in FILES}
    arrows: dict[str, set[str]] = {}
    for module, (tree, path) in trees.items():
        names = [name for _, name in imported_modules(tree, module, path.name == "__init__.py")]
        found = {name if name in trees else name.rpartition(".")[0] for name in names}
        arrows[module] = found & trees.keys() - {module, CIRCLES.get(module)}
    assert arrows["mtrl.cli"] and not circle(arrows), " -> ".join(circle(arrows))


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) in (["b", "c", "b"], ["c", "b", "c"])


def test_importing_mtrl_is_light() -> None:
    """`import mtrl` in a fresh interpreter loads no part of it and none of the heavy libraries."""
    heavy = sorted({"torch", *OWNERS})
    code = f"import mtrl, sys; print([m for m in sys.modules if m in {heavy} or m.startswith('mtrl.')])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
