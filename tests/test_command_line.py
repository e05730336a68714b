"""The command line itself: its help, what it prints where, what it lists, and what a shell is told to complete."""

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

from mtrl import arguments, cli, experiment
from mtrl.experiment.catalogue import listed
from tests.support.tiny_runs import TINY, run_folder

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    "", "train", "sweep", "study", "evaluate", "demos", "demos collect", "demos cache", "list", "bench", "data",
    "data fetch", "data collect", "plot", "watch", "report", "compare", "group", "completion",
]  # fmt: skip


def help_of(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_one_screen_and_its_examples_are_commands(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(command, capsys, monkeypatch)
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 84
    examples = [line.strip() for line in text.partition("examples:\n")[2].splitlines()]
    found = [re.search(r"mtrl [^)|>]*", line) for line in examples]
    calls = [re.split(r"   +", match[0])[0] for match in found if match]
    assert calls and len(calls) == len(examples)
    for call in calls:
        options = arguments.parse(shlex.split(call)[1:])
        if options.command == "sweep" or (options.command == "train" and options.config is None):
            for run in experiment.sweep([word for word in options.options if not word.startswith("ray.")]):
                experiment.compose(run)
    assert command == "" or any(call.startswith(f"mtrl {command}") for call in calls)


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(help_of(command, capsys, monkeypatch) for command in ("", "demos", "data"))
    assert {command for command in COMMANDS if command} == {*cli.COMMANDS, "demos", "data"}
    assert all(re.search(rf"^    {name.split()[-1]}( |$)", text, re.MULTILINE) for name in cli.COMMANDS)


def test_stdout_of_json_is_json_alone(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each run of a sweep, and one for other commands; messages and paths are on stderr."""
    assert cli.main(["train", *TINY, "seed=1,2", "--json"]) == 0
    printed, messages = capsys.readouterr()
    runs = [json.loads(line) for line in printed.splitlines()]
    assert [run["run"] for run in runs] == sorted(map(str, Path("runs").glob("*/*/seed_*")))
    assert runs[0]["tasks"] == json.loads((run_folder() / "result.json").read_text())["tasks"]
    for text in ("New run", "Evaluating", "Run 2 of 2", "Learning curves", "Report on all runs"):
        assert text in messages
    for command in (
        ["evaluate", str(run_folder()), "--episodes", "1"],
        ["list"],
        ["list", "networks", "--benchmark", "toy", "network.width=4"],
        ["train", *TINY, "--show"],
    ):
        assert cli.main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_figures_of_a_study_are_json_too(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rliable", reason="the extra `statistics` is not installed")
    Path("s").mkdir()
    Path("s/study.yaml").write_text(yaml.safe_dump({"runs": {"one": [*TINY, "steps=20"]}}))
    command = [sys.executable, "-m", "mtrl.cli", "study", "s", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(Path("s/summary.json").read_text())
    assert "== mtrl train" in done.stderr and "Results: s" in done.stderr
    assert cli.main(["study", "s", "--check", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["now"] == pytest.approx(facts["kept"]) and "one" in facts["run"]


def test_groups_are_json_too(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watching = ["diagnostics=transference", "diagnostics.transference.every=1"]
    assert cli.main(["train", *TINY, "steps=20", *watching]) == 0
    capsys.readouterr()
    assert cli.main(["group", str(run_folder()), "--groups", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tasks = {"turn-0", "turn-90", "turn-180", "turn-270"}
    assert set().union(*facts["groups"]) == set(facts["tasks"]) == tasks
    for task, row in facts["tasks"].items():
        assert task in facts["groups"][row["group"] - 1]
    assert facts["sum"] == pytest.approx(sum(row["affinity"] for row in facts["tasks"].values()))
    assert [shlex.split(command)[-1] for command in facts["commands"]] == facts["files"]


def test_costs_are_those_that_were_measured() -> None:
    facts, names = listed(), set[str]()
    for suite in ("mt10", "mt50"):
        rows = json.loads((ROOT / f"results/bench/update_{suite}_all.json").read_text())["rows"]
        measured = {row["update"]: row["ratio"] for row in rows}
        for group, plain in (("weighting", "equal"), ("surgery", "none")):
            for name, row in facts[group].items():
                ratio = 1.0 if name == plain else measured[name]
                assert row["cost"][suite] == pytest.approx(ratio, abs=0.005), name
                names.add(name)
    assert len(names) == len(facts["weighting"]) + len(facts["surgery"])


def test_every_published_method_is_listed_with_its_paper() -> None:
    without = {"equal", "none"}
    for group in ("weighting", "surgery", "diagnostics"):
        assert {name for name, row in listed(group)[group].items() if row["paper"] is None} <= without
    assert listed("agents")["agent"]["ppo"]["paper"] == "Schulman et al. 2017"
    facts = listed("surgery")["surgery"]["mgda"]
    assert facts["paper"] == "Sener & Koltun 2018, Eq. 3"
    assert facts["summary"] == "MGDA: the shortest vector in the gradients' convex hull, solved exactly."


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("argcomplete", reason="argcomplete is not installed")
    from mtrl import completion

    return completion


@pytest.mark.parametrize(
    ("prefix", "given", "found"),
    [
        ("netw", [], {"network=", "network."}),
        ("network=mi", [], {"network=mint"}),
        ("network=mo", [], {"network=moore"}),
        ("network=mlp,mi", [], {"network=mlp,mint"}),
        ("diagnostics=[triad,tra", [], {"diagnostics=[triad,transference"}),
        ("surgery.p", ["surgery=gcs"], {"surgery.primary=", "surgery.per_critic="}),
        ("agent.clip", ["recipe=quick"], {"agent.clip_range="}),
        ("diagnostics.transference.e", ["diagnostics=[triad,transference]"], {"diagnostics.transference.every="}),
        ("collector.w", [], {"collector.workers="}),
        ("recipe=qu", [], {"recipe=quick"}),
        ("steps=", [], set()),
        ("surgery.", ["surgery=unknown"], set()),
    ],
)
def test_options_and_their_kinds_are_completed(prefix: str, given: list[str], found: set[str], complete: Any) -> None:
    assert {*complete.options(prefix, given)} == found


def test_what_is_completed_composes(complete: Any) -> None:
    """Every kind that is offered for a group is one that the group has, and every option one of what is chosen."""
    for group in ("network", "surgery", "weighting"):
        kinds = {word.partition("=")[2] for word in complete.options(f"{group}=")}
        assert kinds == set(listed(group)[group])
    config = experiment.compose(["benchmark=mt10", "surgery=pcgrad"])
    for group in ("network", "surgery", "agent", "training", "benchmark"):
        names = {word.partition("=")[0] for word in complete.options(f"{group}.", ["benchmark=mt10", "surgery=pcgrad"])}
        assert names == {f"{group}.{name}" for name in vars(getattr(config, group)) if name != "kind"}


def test_what_a_benchmark_implies_gives_way_to_another_network() -> None:
    """Its sizes suit the network that it implies; another network may lack these options."""
    assert experiment.compose(["benchmark=clutter"]).network.width == 16
    assert experiment.compose(["benchmark=clutter", "network=vgg16"]).network.kind == "vgg16"
    assert experiment.compose(["benchmark=clutter", "network=resnet18"]).network.width == 16


ASK = """
{script}
COMP_WORDS=({words}); COMP_CWORD={last}; COMP_LINE={line}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9
_python_argcomplete mtrl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mtrl comp", {"compare", "completion"}),
        ("mtrl train benchmark=mt1", {"mt1", "mt10"}),
        ("mtrl bench start", {"startup"}),
        ("mtrl plot --kind tr", {"triad"}),
    ],
)
def test_bash_completes_without_torch(line: str, found: set[str], tmp_path: Path, complete: Any) -> None:
    """By the script that `mtrl completion bash` prints, with a `mtrl` that fails where PyTorch is loaded."""
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded')")
    mtrl = tmp_path / "mtrl"
    mtrl.write_text(f'#!{bash}\nexec {shlex.quote(sys.executable)} -m mtrl.cli "$@"\n')
    mtrl.chmod(0o755)
    words = line.replace("=", " = ").split()
    script = ASK.format(
        script=complete.script("bash"), words=shlex.join(words), last=len(words) - 1, line=shlex.quote(line)
    )
    paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    asked: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([bash, "-c", script], check=True, **asked)
    assert {word.strip() for word in done.stdout.splitlines()} == found, done.stderr
