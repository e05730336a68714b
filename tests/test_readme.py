"""What README, CONTRIBUTING, SECURITY and docs/ say holds: commands run with tiny sizes; links, options, files exist.

What is in a `bash` block is run, each line once. What would take a simulator, an installation or hours is in an `sh`
block, of which only the options are checked. A `python` block with a title is a file of that name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mtrl import cli, experiment
from mtrl.arguments import parse
from mtrl.bench.pages import TABLES, rewritten
from mtrl.data import fetch
from mtrl.envs.offscreen import offscreen_backend
from mtrl.experiment.study_file import Study
from mtrl.monitoring.video import RenderingUnavailable
from tests.support.image_files import archive
from tests.support.tiny import SMALLER, TINY, TINY_IMAGES, tiny, words

ROOT = Path(__file__).resolve().parents[1]
_FILES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
PAGES = {path: path.read_text(encoding="utf-8") for path in _FILES}
TEXT = "\n".join(PAGES.values())
RUN = ["experiment=RUN", "surgery=pcgrad", "diagnostics=[triad,transference]"]


def blocks(language: str, titled: bool = False) -> list[tuple[str, str]]:
    """(title, text) of each block of code with a title, or without one."""
    found = re.findall(rf'^```{language}(?: title="(.*?)")?\n(.*?)^```', TEXT, flags=re.DOTALL | re.MULTILINE)
    return [(title, text) for title, text in found if bool(title) == titled]


def lines(language: str) -> list[str]:
    """Every command once, without its comment."""
    found = (line.partition(" #")[0].strip() for _, block in blocks(language) for line in block.splitlines())
    return [*dict.fromkeys(line for line in found if line)]


COMMANDS, READ = lines("bash"), lines("sh")
IMPORTING = [line for line in COMMANDS if "--import" in line]
TRAIN = [line for line in COMMANDS if line.startswith("mtrl train") and line not in IMPORTING]
WATCH = [line for line in COMMANDS if line.startswith("mtrl watch")]  # ends when interrupted: see test_board
OTHER = [line for line in COMMANDS if line.startswith("mtrl ") and line not in [*TRAIN, *IMPORTING, *WATCH]]
FILES = dict(blocks("python", titled=True))
PARALLEL = "parallel.py"
LIBRARIES = {"stable_baselines3": "the extra `aux`", "torchjd": "the extra `surgery`", "torchrl": "the extra `dev`"}
"""What a snippet may import, and what installs it."""


def stems(line: str) -> list[str]:
    """The modules that a command imports."""
    return [module for word, module in pairwise(words(line)) if word == "--import"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two runs that examples name, copies of them as another method's runs, and a kept policy."""
    path = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for seed in (1, 2):
            assert cli.main(["train", "benchmark=mt10", *TINY, *RUN, f"seed={seed}"]) == 0
        shutil.copytree("runs/mt10/RUN", "runs/mt10/OTHER")
        shutil.copytree(ROOT / "results/mt10/quick/seed_1", "results/mt10/quick/seed_1")
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
    if arguments[:2] == ["data", "collect"]:
        pytest.importorskip("minari", reason="the extra `minari` is not installed")
    elif arguments[0] == "data":
        Path("served.tar.gz").write_bytes(archive({"cifar-100-python/train": b""}))
        served = fetch.Source(Path("served.tar.gz").resolve().as_uri(), fetch.md5(Path("served.tar.gz")))
        monkeypatch.setitem(fetch.SOURCES, arguments[2], (served,))
    if arguments[0] == "evaluate":
        arguments += ["--episodes", "1"]
    if arguments[0] == "bench":
        arguments += ["--quick", *(["--suites", "mt10"] if arguments[1] in ("update", "train", "on_policy") else [])]
    if arguments[0] in ("report", "compare") or (arguments[0] == "plot" and len(arguments) > 2):
        pytest.importorskip("rliable", reason="the extra `statistics` is not installed")
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def tiny_own(line: str) -> list[str]:
    """The same for a user's own file, which this process does not import."""
    return [*TINY_IMAGES, *SMALLER["conv"], "benchmark.train_size=12"] if stems(line) == ["stripes"] else TINY


@pytest.mark.parametrize("line", IMPORTING)
def test_files_of_ones_own_run(line: str, tmp_path: Path) -> None:
    """In a process of its own, whose registries are the only ones that know them afterwards."""
    for module in stems(line):
        (tmp_path / f"{module}.py").write_text(FILES[f"{module}.py"], encoding="utf-8")
    more = tiny_own(line) if line.startswith("mtrl train") else []
    command = [sys.executable, "-m", "mtrl.cli", *words(line), *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all({"my_envs": "mine/Point-v0"}.get(module, module) in done.stdout for module in stems(line))


def test_every_file_of_ones_own_is_run() -> None:
    assert set(FILES) == {PARALLEL, *(f"{module}.py" for line in IMPORTING for module in stems(line))}


@pytest.mark.parametrize("line", [*WATCH, *(line for line in READ if line.startswith("mtrl "))])
def test_commands_that_are_only_read_are_valid(line: str) -> None:
    options = parse(words(line))
    if options.command in ("train", "sweep"):
        lowest = [re.sub(r"=(?:log|interval)\((.+),.+\)", r"=\1", word) for word in options.options]
        for run in experiment.sweep([word for word in lowest if not word.startswith("ray.")]):
            experiment.compose(run)


@pytest.mark.parametrize("source", [text for _, text in blocks("python")])
def test_python_examples_run(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for library, extra in LIBRARIES.items():
        if library in source:
            with warnings.catch_warnings(action="ignore"):  # of its own
                pytest.importorskip(library, reason=f"{extra} is not installed")
    try:
        with warnings.catch_warnings():
            if "torchrl" in source:
                warnings.simplefilter("ignore", DeprecationWarning)  # it uses what it calls deprecated
            exec(compile(source, "snippet.py", "exec"), {})
    except RenderingUnavailable as error:
        pytest.skip(str(error))


def test_the_example_of_several_processes_learns_as_one_does(tmp_path: Path) -> None:
    assert any(line.split()[0] == "torchrun" and line.split()[-1] == PARALLEL for line in READ)
    (tmp_path / PARALLEL).write_text(FILES[PARALLEL], encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": env, "stdout": subprocess.PIPE, "text": True, "check": True}
    one, two = (json.loads(subprocess.run([*launcher, n, PARALLEL], **options).stdout) for n in ("1", "2"))
    assert two == pytest.approx(one, rel=1e-4) and len(one) == 2


def test_the_study_that_is_shown_can_be_read(tmp_path: Path) -> None:
    ((_, text),) = blocks("yaml")
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    shown = Study.read(tmp_path)
    assert set(shown.runs) == {"joint", "pcgrad"}
    for label in shown.runs:
        experiment.compose(shown.command(label, 1, []))


def test_the_entry_points_that_are_shown_are_those_of_registries() -> None:
    ((_, text),) = blocks("toml")
    groups = set(tomllib.loads(text)["project"]["entry-points"])
    assert groups and groups <= {registry.package for registry in experiment.REGISTRIES}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"(?:`|^)make ([a-z0-9-]*[a-z0-9])\b(?!-)", TEXT, flags=re.MULTILINE))
    assert {"train", "test", "docs"} <= targets
    for target in targets:
        command = ["make", "--dry-run", target]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0, target


def test_every_kind_of_command_is_one_that_is_tested() -> None:
    """Docker needs an engine that no test machine has; `make check-image` does without one."""
    assert {line.split()[0] for line in COMMANDS} <= {"mtrl", "make", "docker", "apt-get"}
    assert {line.split()[0] for line in READ} <= {
        "mtrl",
        "python",
        "python3",
        ".venv/bin/pip",
        "pipx",
        "uvx",
        "npm",
        "make",
        "torchrun",
    }
    assert all((ROOT / line.split()[1]).is_file() for line in READ if line.startswith("python "))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_option_in_the_text_exists(path: Path) -> None:
    """`group=name` is a name that the group has, `group.option` an option that one of its kinds has."""
    kinds, options = known_options()
    prose = re.sub(r"^```.*?^```", "", PAGES[path], flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`\n]+)`", prose):
        for word in code.replace("'", "").split():
            key, equals, value = word.partition("=")
            group, _, option = key.removeprefix("critic_").partition(".")
            if option and group in options and "/" not in word:
                names = {option.partition(".")[2] if group == "diagnostics" else option}
                assert names <= options[group] or option.isupper(), word
            elif equals and group in kinds and value and not value.isupper():
                assert set(value.strip("[]").split(",")) <= kinds[group], word


def known_options() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The kinds of each group, and the options of any of them."""
    kinds: dict[str, set[str]] = {"recipe": {path.stem for path in (ROOT / "mtrl/configs/recipe").glob("*.yaml")}}
    kinds |= {"replay": {"uniform", "hindsight"}}
    options: dict[str, set[str]] = {}
    for registry in experiment.REGISTRIES:
        kinds.setdefault(registry.group, set()).update(registry.kinds)
        for kind in registry.kinds:
            options.setdefault(registry.group, set()).update(registry.options(kind))
    return kinds, options


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", PAGES[path], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_two_versions_left_by_a_merge(path: Path) -> None:
    assert not re.search(r"^(<{7} |={7}$|>{7} )", PAGES[path], re.MULTILINE)


def anchors(page: str) -> set[str]:
    """As GitHub and the site name the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation_and_the_readme_is_short() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT).as_posix().removeprefix("docs/") for path in PAGES if path.name != "README.md"]
    assert [page for page in pages if f"- {page}\n" not in navigation] == []
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 150


def test_the_first_results_are_those_that_are_kept() -> None:
    """Each recipe's row of the README has its figures; replace them together with the study."""
    studies = [
        json.loads((ROOT / f"results/{name}/summary.json").read_text(encoding="utf-8")) for name in ("mt10", "mt50")
    ]
    for kept in [run for study in studies for run in study["runs"].values()]:
        seeds = ", ".join(map(str, kept["seeds"]))
        scores = ", ".join(f"{100 * score:.1f}" for score in kept["mean_of_each_seed"])
        minutes = ", ".join(f"{seconds / 60:.0f}" for seconds in kept["training_seconds"])
        row = f"seeds {seeds} | **{100 * kept['mean']:.1f} %** | {scores} % | {minutes} minutes |"
        assert row in PAGES[ROOT / "README.md"]


def test_the_tables_of_speed_are_those_of_the_results_that_are_kept() -> None:
    """`make bench-rivals` and `make bench-scale` write both."""
    for bench, names in TABLES.items():
        result = json.loads((ROOT / f"results/bench/{bench}.json").read_text(encoding="utf-8"))
        assert [rewritten(page, result) for page in PAGES.values()] == [*PAGES.values()]
        assert set(re.findall(rf"<!-- {bench}: (\w+)", "".join(PAGES.values()))) == set(names)
