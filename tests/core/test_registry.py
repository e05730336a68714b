"""What is read from a method's source is what its import gives; others add methods by entry points and --import."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mtrl.cli import main
from mtrl.core import registry as core_registry
from mtrl.core.config import runtime_option, runtime_options
from mtrl.core.errors import UserError
from mtrl.core.registry import Registry
from mtrl.experiment import REGISTRIES
from tests.support.tiny_runs import TINY

METHODS = [(registry, kind) for registry in REGISTRIES for kind in registry.kinds]


@pytest.mark.parametrize(("registry", "kind"), METHODS, ids=lambda value: getattr(value, "package", value))
def test_a_source_says_what_the_import_says(registry: Registry, kind: str) -> None:
    config, module = registry.config_class(kind), registry.module(kind)
    assert registry.options(kind) == [field.name for field in dataclasses.fields(config)]
    assert registry.constant(kind, "implies") == getattr(config, "implies", None)
    assert registry.constant(kind, "no_such_constant") is None
    documented = config if hasattr(module, "CONFIGS") else module
    assert registry.summary(kind) == (documented.__doc__ or "").strip().partition("\n")[0] != ""


def test_helpers_are_no_kinds() -> None:
    kinds = {kind for _, kind in METHODS}
    assert not kinds & {"base", "layers", "state", "loop", "evaluation", "images", "torchjd_methods"}
    assert {"cagrad", "cifar100_20", "mt50", "keyframes", "sac"} <= kinds


UNPLAIN = '''"""Made by a function."""
import dataclasses
MAKE = [("kind", str, "%s"), ("width", int, 3)]
Config = dataclasses.make_dataclass("Config", MAKE)
Config.implies = {"agent": "sac"}
'''


def test_what_a_source_does_not_say_plainly_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unplain.py").write_text(UNPLAIN % "unplain")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("part", "mtrl.monitoring")
    registry.add("unplain", "unplain")
    assert registry.options("unplain") == ["kind", "width"]
    assert registry.constant("unplain", "implies") == {"agent": "sac"}
    assert registry.summary("unplain") == "Made by a function."


def test_a_name_taken_twice_is_refused_with_both_places() -> None:
    surgeries = next(registry for registry in REGISTRIES if registry.group == "surgery")
    with pytest.raises(UserError, match=r"Found two: mtrl\.gradients\.surgery\.pcgrad and mine\.surgery"):
        surgeries.add("pcgrad", "mine.surgery")
    networks = next(registry for registry in REGISTRIES if registry.package == "mtrl.networks")
    with pytest.raises(UserError, match=r"mtrl\.networks\.images\.conv and mine\.network"):
        networks.add("conv", "mine.network")
    assert "pcgrad" in surgeries.kinds and "conv" not in networks.kinds


def test_runtime_options_stay_so_where_a_subclass_has_another_default() -> None:
    @dataclass
    class Base:
        rate: float = 0.1
        every: int = runtime_option(5)

    @dataclass
    class Other(Base):
        every: int = 50
        root: str = runtime_option("data")

    assert Base().every == 5 and Other().every == 50
    assert runtime_options(Base) == {"every"} and runtime_options(Other) == {"every", "root"}


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        ("", r"The module built should be one with build\(config, num_tasks=\)\. Found None"),
        ("build = 3", r"with build\(config, num_tasks=\)\. Found 3"),
        ("def build(config): ...", r"with build\(config, num_tasks=\)\. Found 'build\(config\)'"),
        (
            "def build(config, num_tasks):\n    num_tasks.x",  # as of a buffer before super().__init__()
            r"whose build\(config, num_tasks=\) works\. Found .AttributeError: .* \(.*built\.py, line 6\)",
        ),
        ("def build(config, num_tasks): ...", r"built\.build returns should be a \S*base\.Surgery\. Found None"),
    ],
)
def test_a_module_that_builds_something_else_is_refused(
    build: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = "from dataclasses import dataclass\n@dataclass\nclass Config:\n    kind: str = 'built'\n"
    (tmp_path / "built.py").write_text(f"{config}{build}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "built", raising=False)
    registry = Registry("part", "mtrl.monitoring", makes="mtrl.gradients.base.Surgery")
    registry.add("built", "built")
    with pytest.raises(UserError, match=complaint):
        registry.build(registry.config_class("built")(), num_tasks=3)


DATACLASS = "from dataclasses import dataclass\nfrom mtrl.networks import NETWORKS, NetworkConfig\n"
BROKEN = {
    "bad_syntax": ("x = 1\nx = = 2", r"--import bad_syntax should be .*'SyntaxError: .*bad_syntax.py, line 2\)'"),
    "bad_import": ("\nimport nowhere_at_all", r"No module named 'nowhere_at_all' \(bad_import.py, line 2\)"),
    "bad_name": ("x = y", r"NameError: name 'y' is not defined \(bad_name.py, line 1\)"),
    "adds_none": ("", r"The imported modules \(adds_none\) added no network of this name by `add`"),
    "plain": (
        "class Config(NetworkConfig):\n    kind: str = 'plain'\nNETWORKS.add('plain', 'plain')",
        r"Config of plain \(.*plain.py, line 3\) should be a dataclass",
    ),
    "required": (
        "@dataclass\nclass Config(NetworkConfig):\n    kind: str = 'required'\n    x: int\n",
        r"non-default argument 'x' follows .*\(required.py, line [34]\)",
    ),
    "keyed": (
        "@dataclass(kw_only=True)\nclass Config(NetworkConfig):\n    kind: str = 'keyed'\n    x: int\n"
        "NETWORKS.add('keyed', 'keyed')",
        r"Option 'x' of keyed \(.*keyed.py, line [34]\) should be one with a default",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_module_is_refused_with_the_place_in_it(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, complaint = BROKEN[name]
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.setattr(core_registry, "imported", [])
    monkeypatch.setattr(core_registry, "_table", functools.cache(core_registry._table.__wrapped__))
    (elsewhere / f"{name}.py").write_text(f"{DATACLASS if 'Config' in text else ''}{text}\n")
    assert main(["train", *TINY, "--import", name, f"network={name}"]) == 2
    error = capsys.readouterr().err
    assert re.search(complaint, error) and error.count("\n") == 1, error
    sys.modules.pop(name, None)


WIDE = '''"""An MLP of twice the width."""
from dataclasses import dataclass, replace
from mtrl.networks import mlp

@dataclass
class Config(mlp.Config):
    kind: str = "wide"
    factor: int = 2

def build(config, **sizes):
    return mlp.build(replace(config, width=config.factor * config.width), **sizes)
'''
HALVED = '''"""Half of the plain update."""
from dataclasses import dataclass
from mtrl.gradients.base import Surgery, SurgeryConfig

@dataclass
class Config(SurgeryConfig):
    kind: str = "halved"
    share: float = 0.5

class Halved(Surgery):
    def __init__(self, share):
        super().__init__()
        self.share = share

    def coefficients(self, gramian, primary, noise):
        return self.share * gramian.diagonal().new_ones(len(gramian))

def build(config, *, num_tasks):
    return Halved(config.share)
'''
ADDS = """from mtrl.gradients import SURGERIES
from mtrl.networks import NETWORKS
NETWORKS.add("wide", "others.wide")
SURGERIES.add("halved", "others.halved")
"""
POINTS = """[mtrl.networks]
{network} = others.wide
[mtrl.gradients.surgery]
halved = others.halved
"""
OPTIONS = ["train", *TINY, "network=wide", "network.factor=3", "surgery=halved", "experiment=x"]
CRITICS = ["train", *TINY, "critic_surgery=halved", "critic_surgery.share=0.25", "experiment=critics"]
RUN = "runs/toy/x/seed_1"


def package(folder: Path, **files: str) -> None:
    (folder / "others").mkdir(parents=True)
    for name, text in {"__init__": "", "wide": WIDE, "halved": HALVED, **files}.items():
        (folder / "others" / f"{name}.py").write_text(text)


def installed(folder: Path, network: str) -> None:
    """What an installation leaves: the package, and its entry points."""
    package(folder)
    facts = folder / "others-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS.format(network=network))


def process(*commands: list[str], path: Path | None = None, after: str = "") -> subprocess.CompletedProcess[str]:
    """Commands in one new process, the last of which gives the exit code; other packages are on `path`."""
    code = f"import sys\nfrom mtrl.cli import main\nfor words in {list(commands)!r}:\n    code = main(words)\n{after}\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, [path, *sys.path])))
    command = [sys.executable, "-c", f"{code}sys.exit(code)"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def saved(name: str) -> Any:
    import yaml

    return yaml.safe_load(Path(RUN, name).read_text())


@pytest.mark.usefixtures("elsewhere")
def test_an_installed_package_adds_a_network_and_a_surgery(tmp_path: Path) -> None:
    installed(tmp_path / "site", "wide")
    done = process(["list"], OPTIONS, ["evaluate", RUN, "--episodes", "1"], path=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "An MLP of twice the width." in done.stdout and "Half of the plain update." in done.stdout
    assert saved("config.yaml")["network"]["factor"] == 3 and saved("config.yaml")["imports"] == []
    wrong = process([*OPTIONS, "network.factr=2"], path=tmp_path / "site")
    assert wrong.returncode == 2 and "Did you mean 'network.factor'?" in wrong.stderr


def test_an_installed_name_that_is_taken_is_refused_in_one_line(tmp_path: Path) -> None:
    installed(tmp_path, "mint")
    refused = process(["train", *TINY], path=tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "mtrl.networks.mint and others.wide" in refused.stderr


def test_an_installed_name_that_is_a_presets_is_refused(tmp_path: Path) -> None:
    installed(tmp_path, "keyframe_small")
    refused = process(["list"], path=tmp_path)
    assert refused.returncode == 2 and "keyframe_small.yaml and others.wide" in refused.stderr


@pytest.mark.usefixtures("elsewhere")
def test_a_module_named_by_import_adds_them_and_a_run_alone_imports_nothing() -> None:
    package(Path(), __init__=ADDS)
    named, evaluate = ["--import", "others"], ["evaluate", RUN, "--episodes", "1"]
    assert "An MLP of twice the width." in process(["list", *named]).stdout
    done = process([*CRITICS, *named], [*OPTIONS, *named], [*evaluate, *named])
    assert done.returncode == 0, done.stderr
    assert saved("config.yaml")["imports"] == ["others"] and Path("runs/toy/critics/seed_1/result.json").exists()
    unused = "print('imported' if 'others' in sys.modules else 'left alone')"
    for words in (evaluate, ["train", "--config", f"{RUN}/config.yaml"], ["plot", RUN, "--kind", "triad"]):
        refused = process(words, after=unused)
        assert refused.returncode == 2 and "--import others" in refused.stderr and refused.stderr.count("\n") == 1
        assert refused.stdout == "left alone\n"
    loaded = process(["list", "recipes"], after=f"import others, mtrl\nprint(mtrl.load_policy({RUN!r}).tasks)")
    assert loaded.stdout.endswith("['turn-0', 'turn-90', 'turn-180', 'turn-270']\n"), loaded.stderr


@pytest.mark.parametrize("module", ["nowhere", "", ".", ".others", "others.py", "path/others"])
def test_a_module_that_cannot_be_imported_is_refused(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--import", module]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mtrl: --import should be a module") and error.count("\n") == 1


def test_what_is_refused_or_listed_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = "print([m for m in ('torch', 'numpy', 'metaworld', 'mujoco') if m in sys.modules])"
    for words in (["list"], ["train", "benchmark=toy", "agent.nonsense=1"], ["train", "network=mnt"]):
        done = process(words, after=heavy)
        assert done.stdout.endswith("[]\n"), done


def test_composing_imports_only_what_is_chosen() -> None:
    code = "import sys\nfrom mtrl.experiment import compose\n"
    code += "print(compose(['benchmark=digits']).agent.kind, *sys.modules)"
    agent, *loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert agent == "auxiliary"
    assert {"mtrl.envs.images.digits", "mtrl.networks.images.conv", "mtrl.training.auxiliary"} <= set(loaded)
    others = {"metaworld", "mujoco", "stable_baselines3", "torchjd", "matplotlib", "mtrl.envs.images.cifar"}
    others |= {"mtrl.agents.sac", "mtrl.networks.mint", "mtrl.gradients.surgery.pcgrad"}
    assert not others & set(loaded)
