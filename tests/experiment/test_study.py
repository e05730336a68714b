"""Studies: runs that a file names are made once, kept, put into a table and drawn."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.text import Text

import mtrl
from mtrl.cli import main
from mtrl.core.errors import UserError
from mtrl.envs.toy import OBSERVATION_SIZE
from mtrl.experiment.config import compose
from mtrl.experiment.pictures import plot_runs
from mtrl.experiment.study import KEPT, check_study, report, summary, table
from mtrl.experiment.study_file import Study
from mtrl.gradients.base import SurgeryConfig, declared
from mtrl.monitoring import checkpoints
from tests.support.figures import labels, ticks
from tests.support.waiting import PATIENCE, wait_for

RESULTS = Path(__file__).parents[2] / "results"
TINY = [
    "benchmark=toy", "steps=60", "network.width=8", "agent.batch_size=4", "training.learning_starts=20",
    "training.final_episodes=2", "training.log_every=20", "video=false", "agent.normalise_observations=shared",
]  # fmt: skip


def study(folder: Path, **contents: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    return folder


def store(
    folder: Path, label: str, scores: dict[str, float], seed: int = 1, updates: int = 450,
    metric: str = "success", **further: float,
) -> None:  # fmt: skip
    place = folder / label / f"seed_{seed}"
    place.mkdir(parents=True)
    tasks = {task: {f"mean_{metric}": score} for task, score in scores.items()}
    facts = {"updates": updates, "steps_total": updates, "training_seconds": {"update": 1.0}, "episodes": 25}
    mean = sum(scores.values()) / len(scores)
    result = {**facts, **further, "seed": seed, "headline": metric, f"mean_{metric}": mean, "tasks": tasks}
    (place / "result.json").write_text(json.dumps(result))


def test_runs_are_made_once_kept_and_drawn_over_steps_and_time(elsewhere: Path, drawn: dict[str, Figure]) -> None:
    runs = {"sac": [], "pcgrad": {"overrides": ["surgery=pcgrad"], "seeds": [2]}}
    folder = study(elsewhere / "small", common=TINY, runs=runs, lines={"published": 0.5})
    assert main(["study", str(folder), "sac"]) == 0
    first = Path("runs/small/toy/sac/seed_1/metrics.jsonl")
    before = first.read_bytes()
    assert main(["study", str(folder), "--jobs", "2"]) == 0
    assert first.read_bytes() == before, "a finished run is not repeated"
    for kept in (folder / "sac/seed_1", folder / "pcgrad/seed_2"):
        assert sorted(file.name for file in kept.iterdir()) == sorted(KEPT)
    figure = drawn["comparison.png"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["environment steps per task", "minutes of training"]
    assert labels(figure.axes[0].get_legend()) == ["sac (1 seed)", "pcgrad (1 seed)"]
    assert set(json.loads((folder / "summary.json").read_text())["runs"]) == {"sac", "pcgrad"}


@pytest.mark.parametrize("agent", [["agent=sac"], ["agent=ppo", "training=on_policy", "training.rollout_steps=4"]])
def test_a_kept_policy_acts_as_the_run_does_and_its_score_is_found_again(elsewhere: Path, agent: list[str]) -> None:
    options = [option for option in TINY if agent[0] == "agent=sac" or "batch_size" not in option]
    options = [option for option in options if agent[0] == "agent=sac" or "learning_starts" not in option]
    folder = study(elsewhere / "small", common=options, runs={"one": agent})
    assert main(["study", str(folder)]) == 0
    policies = [mtrl.load_policy(path) for path in (folder / "one/seed_1", Path("runs/small/toy/one/seed_1"))]
    observation = np.random.default_rng(0).normal(size=(3, OBSERVATION_SIZE))
    first, second = (policy.act(observation, 1) for policy in policies)
    assert np.array_equal(first, second)
    assert main(["study", str(folder), "--check"]) == 0
    result = folder / "one/seed_1/result.json"
    facts = json.loads(result.read_text())
    result.write_text(json.dumps(facts | {"mean_success": 1.0 - round(facts["mean_success"])}))
    assert main(["study", str(folder), "--check"]) == 2


def test_a_task_counts_if_every_control_fails_it_with_every_seed(tmp_path: Path) -> None:
    seeds = {"seeds": [1, 2]}
    folder = study(tmp_path, runs={"equal": seeds, "blind": seeds, "mean": seeds}, controls=["blind", "mean"])
    for seed, (lift, stack) in {1: (1.0, 0.9), 2: (0.7, 0.6)}.items():
        store(folder, "equal", {"lift": lift, "stack": stack}, seed)
        store(folder, "blind", {"lift": 0.0, "stack": 0.0 if seed == 1 else 0.3}, seed)
        store(folder, "mean", {"lift": 0.2, "stack": 0.0}, seed)
    facts = summary(Study.read(folder), ["equal", "blind", "mean"])
    assert facts["counted"] == ["lift"]
    equal = facts["runs"]["equal"]
    assert equal["tasks"] == pytest.approx({"lift": 0.85, "stack": 0.75}) and equal["mean"] == pytest.approx(0.8)
    assert equal["seeds"] == [1, 2] and equal["solved"] == 1
    assert equal["interquartile_mean"] == pytest.approx((0.7 + 0.9) / 2), "the middle half of four scores"
    low, high = equal["interval_95"]
    assert 0.6 <= low <= 0.8 <= high <= 1.0


def test_a_label_solves_only_shares_of_its_own_tasks(tmp_path: Path) -> None:
    folder = study(tmp_path, runs={"both": [], "one": [], "returns": [], "blind": []}, controls=["blind"])
    store(folder, "both", {"lift": 1.0, "stack": 0.9})
    store(folder, "one", {"lift": 1.0})
    store(folder, "returns", {"lift": 31.0, "stack": 5.0}, metric="return")
    store(folder, "blind", {"lift": 0.0})
    facts = summary(Study.read(folder), ["both", "one", "returns", "blind"])
    assert facts["counted"] == ["lift", "stack"], "the control has nothing to say about a task that it lacks"
    assert [row["solved"] for row in facts["runs"].values()] == [2, 1, None, 0]
    both, one, returns, _ = table(facts).splitlines()[1:]
    assert "2 of 2" in both and "1 of 1" in one and " of " not in returns


def test_controls_are_drawn_last_wherever_the_file_names_them(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    pictures = {"scores.png": "scores"}
    folder = study(tmp_path, runs={"blind": [], "equal": []}, controls=["blind"], pictures=pictures)
    store(folder, "blind", {"lift": 0.0})
    store(folder, "equal", {"lift": 1.0})
    report(folder)
    (panel,) = drawn["scores.png"].axes
    assert ticks(panel.xaxis) == ["equal", "blind"] and panel.get_xticks().tolist() == [0, 2]


def test_a_suite_with_panels_of_its_own_has_a_title_but_no_lines(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    folder, picture = RESULTS / "pushing/mint/seed_1", tmp_path / "pushing.png"
    plot_runs([folder], picture, title="Pushing")
    assert "Pushing" in [text.get_text() for text in drawn["pushing.png"].findobj(Text)]
    looks: list[dict[str, Any]] = [{"lines": {"paper": 0.5}}, {"headline": "train/return"}]
    for look in looks:
        with pytest.raises(UserError, match="benchmark=pushing should be"):
            plot_runs([folder], picture, **look)


def test_the_table_has_delta_mtl_with_its_interval_over_seeds(tmp_path: Path) -> None:
    folder = study(tmp_path, runs={"single": [], "both": {"seeds": [1, 2, 3]}})
    store(folder, "single", {"depth": 0.5})
    for seed, delta in enumerate((-2.0, 1.0, 4.0), 1):
        store(folder, "both", {"depth": 0.5}, seed, delta_mtl=delta)
    heads, single, both = table(summary(Study.read(folder), ["single", "both"])).splitlines()
    assert "Δ_MTL" in heads and single.split()[-2:] == ["-", "-"]
    assert "+1.0 %" in both and both.endswith(" -2.0 to +4.0")


def test_runs_that_should_have_had_equally_many_updates_are_held_to_it(tmp_path: Path) -> None:
    folder = study(tmp_path, runs={"one": [], "two": []}, equal="updates", seeds=[1, 2])
    for label, updates in {"one": 450, "two": 449}.items():
        store(folder, label, {"lift": 1.0}, updates=updates)
    with pytest.raises(UserError, match="equal updates"):
        summary(Study.read(folder), ["one", "two"])
    store(folder, "one", {"lift": 1.0}, seed=2, updates=449)
    with pytest.raises(UserError, match="equal updates"):
        summary(Study.read(folder), ["one"])
    store(folder, "two", {"lift": 1.0}, seed=2, updates=450)
    with pytest.raises(UserError, match="equal updates"):
        summary(Study.read(folder), ["one", "two"])


@pytest.mark.parametrize(
    ("contents", "words", "message"),
    [
        ({"runs": {"one": TINY}}, ["two"], "one of one"),
        ({"runs": {"one": TINY}}, ["agent.batch=3"], "batch"),
        ({"runs": {}}, [], "labels with overrides"),
        ({"runs": {"": TINY}}, [], "the name of one folder"),
        ({"runs": {"one": TINY}, "seed": 3}, [], "seed"),
        ({"runs": {"one": {"seed": 3}}}, [], "seed"),
        ({"runs": {"one": TINY}}, ["--jobs", "0"], "positive"),
        ({"runs": {"one": TINY}}, ["--report"], "finished run"),
        ({"runs": {"one": TINY}, "prepare": ["evaluate nowhere"]}, [], "mtrl evaluate nowhere"),
        ({"runs": {"one": TINY}, "seeds": [1, 2, 1]}, [], "different from each other"),
        ({"runs": {"one": TINY}, "controls": ["blimd"]}, [], "Controls of study"),
        ({"runs": {"one": TINY}, "equal": "nosuch"}, [], "one of steps_total"),
        ({"runs": {"one": TINY}, "pictures": {"a.png": "nokind"}}, [], "one of curves"),
        ({"runs": {"one": TINY}}, ["seed=7"], "which a study sets for each run. Found 'seed=7'"),
        ({"runs": {"one": [*TINY, "experiment=mine"]}}, [], "which a study sets for each run"),
    ],
)
def test_what_is_wrong_is_refused_before_the_first_run(
    elsewhere: Path, contents: dict[str, Any], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(elsewhere / "small", **contents)
    assert main(["study", str(folder), *words]) == 2
    assert message in capsys.readouterr().err and not Path("runs").exists()


def test_several_seeds_need_the_library_of_their_intervals(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    folder = study(elsewhere / "small", common=TINY, runs={"one": []}, seeds=[1, 2])
    assert main(["study", str(folder)]) == 2
    assert "[statistics]" in capsys.readouterr().err and not Path("runs").exists()


def test_make_installs_what_studies_need_before_it_repeats_one() -> None:
    lines = (RESULTS.parent / "Makefile").read_text(encoding="utf-8").splitlines()
    (rule,) = (line for line in lines if line.startswith("results-%:"))
    (place,) = (number for number, line in enumerate(lines) if line.startswith(f"{rule.split()[1]}:"))
    extras = set(lines[place + 1].partition(".[")[2].partition("]")[0].split(","))
    assert {"video", "statistics", "surgery", "vision", "minari", "aux"} <= extras


@pytest.mark.parametrize(("labels", "message"), [(["two"], "one of one"), ([], "kept policy"), (["one"], "['one']")])
def test_a_check_of_nothing_is_refused(
    tmp_path: Path, labels: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(tmp_path, runs={"one": []})
    store(folder, "one", {"lift": 1.0})
    assert main(["study", str(folder), *labels, "--check"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--report", "one"], ["--report", "seed=1"], ["--check", "seed=1"]])
def test_words_that_reports_and_checks_would_not_use_are_refused(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(tmp_path, runs={"one": []})
    assert main(["study", str(folder), *words]) == 2
    assert words[1] in capsys.readouterr().err


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="readable YAML"):
        list(check_study(tmp_path, []))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/study.yaml")))
def test_the_studies_of_this_repository_are_whole(name: str) -> None:
    found = Study.read(RESULTS / name)
    for label in found.runs:
        config = compose(found.command(label, found.seeds[label][0], []))
        for surgery in filter(None, (config.surgery, config.critic_surgery)):
            limits = declared(surgery, SurgeryConfig)
            assert limits.primary_tasks() or not limits.requires_primary, f"{label} needs primary tasks"
    assert set(found.controls) <= set(found.runs)


def test_data_sets_are_kept_however_the_path_of_their_run_is_typed(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("minari", reason="the extra `minari` is not installed")
    options = ["benchmark=point", "benchmark.num_tasks=1", "agent=ppo", "training=on_policy", "experiment=ppo"]
    assert main(["train", *options, "steps=100", "training.rollout_steps=100", "training.final_episodes=1"]) == 0
    run = Path("runs/point/ppo/seed_1")
    for path in (run, run.resolve()):
        assert main(["data", "collect", str(path), "--episodes", "1"]) == 0
    assert main(["data", "collect", str(run), "--replay", "--output", "replays"]) == 2
    assert "training=off_policy" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_runs_side_by_side_have_cores_of_their_own(elsewhere: Path) -> None:
    """A module that `--import` names notes them. The runs get this flag from the study."""
    note = "import os, pathlib\npathlib.Path(f'cores-{os.getpid()}').write_text(repr(os.sched_getaffinity(0)))\n"
    Path("noted_cores.py").write_text(note)
    folder = study(elsewhere / "small", common=[*TINY, "steps=2000"], runs={"one": [], "two": []}, pictures={})
    command = ["-m", "mtrl.cli", "study", str(folder), "--jobs", "2", "--import", "noted_cores"]
    own_locks = {**os.environ, "TMPDIR": str(elsewhere)}  # no other test has reserved a core there
    subprocess.run([sys.executable, *command], env=own_locks, check=True)
    found = [ast.literal_eval(file.read_text()) for file in Path().glob("cores-*")]
    every = len(os.sched_getaffinity(0))
    assert sorted(map(len, found)) == ([1, 1, every] if every > 1 else [1, 1, 1])
    assert every == 1 or len({min(cores) for cores in found if len(cores) == 1}) == 2


@pytest.mark.parametrize(("name", "jobs"), [("SIGTERM", 2), ("SIGINT", 1)])
def test_a_signal_to_a_study_ends_its_runs_with_their_checkpoints(elsewhere: Path, name: str, jobs: int) -> None:
    options = [*TINY, "steps=1000000", "training.checkpoint_every=1000000"]
    folder = study(elsewhere / "small", common=options, runs={"one": [], "two": []})
    command = [sys.executable, "-m", "mtrl.cli", "study", str(folder), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    files = [Path(f"runs/small/toy/{label}/seed_1/metrics.jsonl") for label in ("one", "two")][:jobs]
    wait_for(lambda: all(file.exists() and file.stat().st_size for file in files), process)
    process.send_signal(getattr(signal, name))
    error = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == 130 and error.splitlines()[-1].startswith("mtrl: interrupted"), error
    for file in files:
        saved = checkpoints.latest(file.parent / "checkpoints")
        assert saved is not None and checkpoints.step_of(saved) >= 20
        lock = os.open(file.parent / ".lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run's process has ended
        os.close(lock)
    assert Path("runs/small/toy/two").exists() == (jobs == 2), "no run begins after the signal"


def test_the_better_half_of_the_runs_goes_on_and_nothing_is_repeated(elsewhere: Path) -> None:
    sizes = {"tiny": 2, "small": 4, "middle": 8, "large": 16}
    runs = {label: [f"network.width={width}"] for label, width in sizes.items()}
    folder = study(elsewhere / "halved", common=TINY, runs=runs, halving=[1, 2, 3], equal="updates", pictures={})
    assert main(["study", str(folder)]) == 0
    scores = {label: found["1"] for label, found in json.loads((folder / "rungs.json").read_text())["scores"].items()}
    rungs = [[label for label in sizes if len(scores[label]) > rung] for rung in range(3)]
    assert [len(alive) for alive in rungs] == [4, 2, 1]
    for rung, (before, after) in enumerate(pairwise(rungs)):
        dropped = set(before) - set(after)
        assert min(scores[label][rung] for label in after) >= max(scores[label][rung] for label in dropped)
    for label, found in scores.items():
        result = json.loads((folder / label / "seed_1/result.json").read_text())
        assert result["steps_per_task"] == 60 * len(found), "a rung is so many times the steps"
        assert result["mean_success"] == found[-1], "and its score that of the policy at its end"
    rows = json.loads((folder / "summary.json").read_text())["runs"]
    assert {label: row["rungs"] for label, row in rows.items()} == scores
    before = {path: path.read_bytes() for path in Path("runs/halved").rglob("metrics.jsonl")}
    assert main(["study", str(folder)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert main(["study", str(folder), "small"]) == 2, "half of the study's runs cannot be halved"
    study(elsewhere / "halved", common=TINY, runs=runs, halving=[2, 4, 6], equal="updates", pictures={})
    assert main(["study", str(folder)]) == 2, "the scores are those of other steps"
