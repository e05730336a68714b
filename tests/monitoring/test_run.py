"""A run folder admits the run it was made for, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrl.core.errors import UserError
from mtrl.monitoring.run import FORMAT, RunFolder, run_path

CONFIG = {"steps": 100, "seed": 1, "device": "cpu", "network": {"kind": "mint", "width": [400, 400], "rate": 3e-4}}


RESULT = {"episodes": 0, "tasks": {}, "success": 0.5}


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] != "."}


def created(path: Path, config: dict = CONFIG, finished: bool = False) -> Path:
    with RunFolder.open(path, config) as run:
        assert run.status == "new"
        if finished:
            run.finish(RESULT)
    return path


def test_new_run_holds_its_config_and_where_it_comes_from(tmp_path):
    path = created(run_path(tmp_path, "mt10", "mint-equal-pcgrad", 1))
    assert path == tmp_path / "mt10" / "mint-equal-pcgrad" / "seed_1"
    assert yaml.safe_load((path / "config.yaml").read_text()) == {"format": FORMAT, **CONFIG}
    assert RunFolder.load(path).config == CONFIG
    record = json.loads((path / "provenance.json").read_text())
    assert {"command", "git", "packages", "python", "cpu", "cores", "gpu", "torch_threads", "started"} <= record.keys()
    assert record["packages"]["torch"] and record["command"] == sys.argv
    assert all((path / name).is_dir() for name in ("tensorboard", "evaluations", "videos", "checkpoints"))


def test_same_config_resumes_and_adds_provenance(tmp_path):
    path = created(tmp_path / "run")
    started = json.loads((path / "provenance.json").read_text())
    with RunFolder.open(path, CONFIG) as run:
        assert run.status == "resume"
        run.begin()
    record = json.loads((path / "provenance.json").read_text())
    assert len(record.pop("resumed")) == 1 and record == started


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_is_older_than_an_option_has_its_default(tmp_path, finished):
    path = created(tmp_path / "run", finished=finished)
    younger = {**CONFIG, "network": {**CONFIG["network"], "depth": 3}, "start": ""}
    settings: dict[str, Any] = {"defaults": {"start": "", "network": {"kind": "mlp", "depth": 3, "rate": 1.0}}}
    with RunFolder.open(path, younger, **settings) as run:
        assert run.status == ("finished" if finished else "resume")
        assert RunFolder.is_finished(path, younger, **settings) == finished
        run.begin()
    assert finished or RunFolder.load(path).config == younger
    for changed in ({"depth": 4}, {"depth": 3, "rate": 1.0}):
        other = {**younger, "network": {**CONFIG["network"], **changed}}
        with pytest.raises(UserError, match="should keep its configuration"):
            RunFolder.open(path, other, **settings)
    with pytest.raises(UserError, match="start: '' -> 'elsewhere'"):
        RunFolder.open(path, {**younger, "start": "elsewhere"}, **settings)


def test_tuples_and_lists_are_the_same_config(tmp_path):
    path = created(tmp_path / "run", {"steps": 1, "width": (400, 400), "rate": 1e-5, "nan": float("nan")})
    with RunFolder.open(path, {"steps": 1, "width": [400, 400], "rate": 1e-5, "nan": float("nan")}) as run:
        assert run.status == "resume"


def test_finished_run_is_not_touched(tmp_path):
    path = created(tmp_path / "run", finished=True)
    before = contents(path)
    with RunFolder.open(path, CONFIG) as run:
        assert run.status == "finished" and run.result == RESULT
    assert contents(path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_more_steps_extend_and_keep_the_old_result(tmp_path, finished):
    path = created(tmp_path / "run", finished=finished)
    with RunFolder.open(path, {**CONFIG, "steps": 200}) as run:
        assert run.status == "extend"
        run.begin()
        assert run.result is None
    old = path / "evaluations" / "result_100_steps.json"
    assert old.exists() == finished and (not finished or json.loads(old.read_text()) == RESULT)
    assert RunFolder.load(path).config["steps"] == 200
    with RunFolder.open(path, {**CONFIG, "steps": 200}) as run:
        assert run.status == "resume"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 50}, ["steps: 100 -> 50"]),
        ({"steps": 200, "seed": 2}, ["seed: 1 -> 2", "steps: 100 -> 200"]),
        ({"network": {**CONFIG["network"], "kind": "film"}}, ["network.kind: 'mint' -> 'film'"]),
        ({"network": "mlp"}, ["network: {"]),
        ({"surgery": {"kind": "pcgrad"}}, ["surgery: 'absent' -> {'kind': 'pcgrad'}"]),
        ({"seed": "a\nb"}, [r"seed: 1 -> 'a\nb'"]),
    ],
)
def test_any_other_difference_is_named_in_one_line_and_nothing_changes(tmp_path, change, named):
    path = created(tmp_path / "run", finished=True)
    before = contents(path)
    with pytest.raises(UserError) as error:
        RunFolder.open(path, {**CONFIG, **change})
    assert all(text in str(error.value) for text in named) and "\n" not in str(error.value)
    assert contents(path) == before
    with RunFolder.open(path, CONFIG):
        pass


def test_ignored_keys_may_differ_with_all_below_them(tmp_path):
    path = created(tmp_path / "run")
    other = {**CONFIG, "device": "cuda", "network": {"kind": "film"}}
    with RunFolder.open(path, other, ignore={"device", "network"}) as run:
        assert run.status == "resume"
    with pytest.raises(UserError, match="seed"):
        RunFolder.open(path, {**other, "seed": 3}, ignore={"device", "network", "see"})


def test_what_a_crash_before_the_config_left_counts_as_new(tmp_path):
    path = created(tmp_path / "run")
    (path / "config.yaml").unlink()
    created(path)


def test_folders_that_another_run_uses_stay(tmp_path):
    first = RunFolder.open(tmp_path / "runs/mt10/a/seed_1", CONFIG)
    second = RunFolder.open(tmp_path / "runs/mt10/a/seed_2", CONFIG)
    first.discard()
    assert [path.name for path in first.path.parent.iterdir()] == ["seed_2"]
    second.close()


def test_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="thesis"):
        RunFolder.open(tmp_path, CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("tail", ["file", "file/run", "new/deep/" + "x" * 300])
def test_place_that_cannot_be_written_is_refused_and_nothing_is_written(tmp_path, tail):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="should be") as error:
        RunFolder.open(tmp_path / tail, CONFIG)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_loading_names_the_path_and_what_was_expected(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=f"{path}.*config.yaml"):
            RunFolder.load(path)
    for seed in ("seed_2", "seed_1"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "config.yaml").touch()
    with pytest.raises(UserError, match="Found 'runs in it: seed_1, seed_2'"):
        RunFolder.load(tmp_path)
    with pytest.raises(UserError, match="Found 'a file'"):
        RunFolder.load(tmp_path / "seed_1" / "config.yaml")
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="readable YAML") as error:
        RunFolder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    code = "import sys; from mtrl.monitoring.run import RunFolder\n"
    code += "run = RunFolder.open(sys.argv[1], {'steps': 1}); print(flush=True); sys.stdin.read()"
    command, pipe = [sys.executable, "-c", code, str(tmp_path / "run")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with pytest.raises(UserError, match=f"one process at a time. Found 'process {process.pid}'"):
                RunFolder.open(tmp_path / "run", {"steps": 1})
        finally:
            process.kill()
    with RunFolder.open(tmp_path / "run", {"steps": 1}) as run:
        assert run.status == "resume"


def test_results_and_evaluations_hold_valid_json_whatever_the_numbers(tmp_path):
    with RunFolder.open(tmp_path / "run", CONFIG) as run:
        run.finish({**RESULT, "success": float("nan")})
        path = run.write_evaluation(100, {"success": [1.0, float("inf")]})
    assert run.result == {**RESULT, "success": None}
    assert json.loads(path.read_text()) == {"success": [1.0, None]} and path.name == "step_100.json"


def test_a_broken_result_is_named(tmp_path):
    with RunFolder.open(tmp_path / "run", {"steps": 1}) as folder:
        (folder.path / "result.json").write_text('{"success": 0.')
        with pytest.raises(UserError, match=r"result\.json should be a readable JSON file\. Found "):
            _ = folder.result


def test_a_folder_of_another_format_says_which_version_reads_it(tmp_path):
    path = created(tmp_path / "run")
    file, record = path / "config.yaml", path / "provenance.json"
    file.write_text(file.read_text().replace(f"format: {FORMAT}", "format: 99"))
    record.write_text(json.dumps({"packages": {"mtrl-toolkit": "7.0"}}))
    for read in (RunFolder.load, lambda path: RunFolder.open(path, CONFIG)):
        with pytest.raises(UserError, match=rf"of format {FORMAT}, or read by mtrl 7\.0, which wrote it. Found 99"):
            read(path)


def test_a_run_without_its_configuration_is_not_taken_for_a_new_one(tmp_path):
    path = created(tmp_path / "run")
    (path / "config.yaml").unlink()
    (path / "checkpoints" / "step_10").mkdir()
    with pytest.raises(UserError, match="checkpoints"):
        RunFolder.open(path, CONFIG)


@pytest.mark.parametrize("name", ["steps_per_task", "steps_total", "updates", "training_seconds", "mean_over"])
@pytest.mark.parametrize("value", [None, {"a": [1]}, "many"])
def test_what_others_show_of_a_result_is_of_its_kind(tmp_path, name, value):
    path = created(tmp_path / "run", finished=True)
    (path / "result.json").write_text(json.dumps({**RESULT, name: value}))
    with pytest.raises(UserError, match=rf"result.json.*{name}"):
        _ = RunFolder.load(path).result
