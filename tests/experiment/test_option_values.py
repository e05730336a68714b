"""Options mean what was typed: paths, names and numbers, on the command line and in files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mtrl import cli, experiment
from mtrl.configs import values
from mtrl.experiment.config import restore
from mtrl.monitoring.files import write_atomic

pytestmark = pytest.mark.usefixtures("elsewhere")

TOY = ["benchmark=toy", "steps=50"]
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\n\r/"), min_size=1, max_size=30)
HARD = st.lists(
    st.sampled_from(["\\", "'", '"', "$", "{", "}", "${x}", "\\${", "\t", ",", "[", "]", "#", " ", "=", "é"])
)


def shown(*options: str) -> dict[str, object]:
    """The configuration that the command line makes of options."""
    stream = io.StringIO()
    with redirect_stdout(stream):
        assert cli.main(["train", *options, "--show"]) == 0
    return yaml.safe_load(stream.getvalue())


@pytest.mark.parametrize(
    ("option", "text", "found"),
    [
        ("runs", "~/x", os.path.expanduser("~/x")),
        ("runs", "/data/épreuve", "/data/épreuve"),
        ("runs", "/data/x#1", "/data/x#1"),
        ("runs", "/data/(old)/v2", "/data/(old)/v2"),
        ("runs", "'/data/a,b'", "/data/a,b"),
        ("experiment", "实验", "实验"),
        ("experiment", "lr=3e-4", "lr=3e-4"),
        ("experiment", "null", "null"),
        ("experiment", "1e6", "1e6"),
        ("experiment", "${seed}", "${seed}"),
        ("steps", "1e6", 1_000_000),
        ("steps", "2.5e3", 2500),
        ("steps", "9007199254740993.0", 9007199254740993),
    ],
)
def test_values_are_taken_as_typed(option: str, text: str, found: object) -> None:
    assert shown(*TOY, f"{option}={text}")[option] == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["runs=/data/a,b"], "`runs` should be one path or name"),
        (["experiment=a,b"], "`experiment` should be one path or name"),
        (["benchmark=digits,digit_domains", "benchmark.root=a,b"], "`benchmark.root` should be one path or name"),
        (["experiment=.."], "`experiment` should be the name of one folder"),
        (["experiment=."], "`experiment` should be the name of one folder"),
        (["experiment=-x"], "`experiment` should be the name of one folder"),
        ([f"experiment={'x' * 300}"], "`experiment` should be the name of one folder"),
        (["experiment=\udcff"], "`experiment` should be the name of one folder"),
        (["steps=many", "steps=300"], "`steps` should be an integer. Found 'many'"),
        (["steps=300", "steps=many"], "`steps` should be an integer. Found 'many'"),
        (["steps=[1, 2]", "steps=300"], "`steps` should be an integer. Found '[1, 2]'"),
        (["steps=1.5"], "`steps` should be an integer. Found '1.5'"),
        (["steps=1e999999999"], "`steps` should be an integer"),
        (["seed=1\r"], "carriage return (Windows line end)"),
        (["tasks=[turn(3]"], "with unusual text in quotes"),
        (["tasks=turn-0"], "`benchmark.tasks` should be a list in brackets, such as [first,second]. Found 'turn-0'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TOY, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "\r" not in error
    assert list(Path().rglob("*")) == []


def test_words_of_other_commands_hold_no_line_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "runs/x\r"]) == 2
    assert "carriage return (Windows line end)" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["dos", "mark"])
def test_a_configuration_file_may_come_from_windows(form: str) -> None:
    before = shown(*TOY)
    text = yaml.safe_dump(before)
    content = text.replace("\n", "\r\n").encode() if form == "dos" else text.encode("utf-8-sig")
    Path("c.yaml").write_bytes(content)
    assert shown("--config", "c.yaml") == before


@settings(max_examples=25)
@given(st.one_of(TEXT, HARD.map("".join)).filter(lambda text: text and text[0] not in "-~" and text not in (".", "..")))
def test_a_saved_configuration_gives_back_its_text(text: str) -> None:
    """Through a file, with `--config` and with what reads run folders."""
    saved = shown("benchmark=digit_domains", "steps=50") | {"experiment": text, "runs": f"/data/{text}"}
    saved["training"] = {**saved["training"], "single_task": text}  # type: ignore[dict-item]
    file = Path("c.yaml")
    write_atomic(file, yaml.safe_dump(saved, allow_unicode=True))
    assert shown("--config", "c.yaml") == saved
    restored = restore(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert (restored.experiment, restored.runs, restored.training.single_task) == (text, f"/data/{text}", text)


@given(st.lists(st.one_of(TEXT, HARD.map("".join))))
def test_lists_of_text_are_read_as_they_were_written(texts: list[str]) -> None:
    assert values.read("x", values.quoted(texts), list[str]) == values.as_typed(texts)


def test_commas_still_make_runs_of_other_options() -> None:
    assert experiment.sweep([*TOY, "network.activation=relu,tanh", "seed=1,2"]) == [
        [*TOY, f"network.activation={activation}", f"seed={seed}"] for activation in ("relu", "tanh") for seed in (1, 2)
    ]


@pytest.mark.parametrize(
    ("group", "kind"), [("critic_surgery", "pcgrad"), ("critic_weighting", "uncertainty"), ("diagnostics", "triad")]
)
def test_an_optional_group_is_empty_again_after_a_kind(group: str, kind: str) -> None:
    assert shown(*TOY, f"{group}={kind}")[group] is not None
    assert shown(*TOY, f"{group}=null")[group] is None
    assert shown(*TOY, f"{group}={kind}", f"{group}=null")[group] is None


KEYS = [
    "steps", "seed", "runs", "experiment", "threads", "benchmark", "network", "surgery", "training", "diagnostics",
    "recipe", "tasks", "network.width", "network.activation", "agent.learning_rate", "training.on_nonfinite",
    "training.single_task", "surgery.primary", "diagnostics.triad.every", "agent.support", "network.", "..", "", "a b",
]  # fmt: skip
VALUES = [
    "1", "-1", "1e6", "nan", "1e400", "null", "[]", "[a,b]", "{a: 1}", "{", "(", "'", "${x}", "${oc.env:HOME}", "a,b",
    "range(1,3)", "glob(*)", "interval(1,2)", "int(3)", "toy", "pcgrad", "[triad]", "\udc80", "\0", "1,", "?",
    "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_any_options_are_taken_or_refused_in_one_line(count: int, malformed: Callable[[], None]) -> None:
    value = st.sampled_from(VALUES) | TEXT | HARD.map("".join) | st.floats().map(str) | st.integers().map(str)
    option = st.tuples(st.sampled_from(KEYS) | TEXT, st.sampled_from(["=", "=", ""]), value)

    @seed(count)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(option, min_size=1, max_size=3))
    def check(options: list[tuple[str, str, str]]) -> None:
        malformed()
        stream = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(stream):
            code = cli.main(["train", *TOY, *map("".join, options), "--show"])
        assert code in (0, 2) and stream.getvalue().count("\n") == (code == 2)
        assert os.listdir() == []

    check()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("threads=1000000000", "`threads` should be 0 to 1024"),
        ("seed=glob(*)", "`seed` should be one value here"),
        ("benchmark=glob(*)", "`benchmark` should be one of"),
        (f"steps={'9' * 400}", "`steps` should be below 2^63"),
        (f"agent.learning_rate={'9' * 400}", "`agent.learning_rate` should be a finite number"),
        (f"agent.support=[-10,{'9' * 400}]", "`agent.support` should be a finite number"),
        (f"agent.gamma={'9' * 5000}", "`agent.gamma` should be one value"),
        (f"seed={'[' * 5000}", "`seed` should be"),
        (f"{'k' * 10_000}=3", "Option `kkk"),
        (f"network.{'k' * 10_000}=3", "Option `network.kkk"),
        ("training.update_to_data=inf", "`training.update_to_data` should be a finite number"),
        ("tasks=[turn-0,turn-0]", "`benchmark.tasks` should be a list without duplicates"),
        ("agent.learning_rate=inf", "`agent.learning_rate` should be a finite number"),
        ("agent.target_entropy=nan", "`agent.target_entropy` should be a finite number"),
        (f"seed={2**70}", "`seed` should be"),
        ("network.depth=100000", "`network.depth` should be in 1..1000"),
    ],
)
def test_numbers_without_a_meaning_are_refused(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TOY, option, "--show"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) < 5000


def test_a_sweep_may_have_hundreds_of_runs() -> None:
    seeds = [f"seed={number}" for number in range(300)]
    assert experiment.sweep([*TOY, f"seed={','.join(s.removeprefix('seed=') for s in seeds)}"]) == [
        [*TOY, seed] for seed in seeds
    ]
    assert experiment.sweep([*TOY, "seed=range(0,300)"]) == [[*TOY, seed] for seed in seeds]


def test_networks_that_no_memory_holds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "networks", "--benchmark", "toy", "network.width=1000000000000"]) == 2
    error = capsys.readouterr().err
    assert "Memory should suffice" in error and error.count("\n") == 1
