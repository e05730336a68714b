"""scripts/slurm and scripts/kubernetes: their commands are mtrl's, and a signal puts a job back into the queue."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrl import experiment
from mtrl.arguments import parse
from tests.support.waiting import PATIENCE, wait_for

SCRIPTS = Path(__file__).parents[1] / "scripts"
SEEDS = SCRIPTS / "slurm/seeds.sh"
MTRL = """#!/bin/sh
echo "$@" threads-variable=$OMP_NUM_THREADS > words
trap 'sleep 0.2; exit 130' USR1  # it saves
touch begun
while [ ! -e enough ]; do sleep 0.05; done
exit $(cat enough)
"""


def slurm(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """The job of the seventh seed, with stand-ins for mtrl and Slurm."""
    for name, text in {"mtrl": MTRL, "scontrol": '#!/bin/sh\necho "$@" > requeued\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    given = {"SLURM_ARRAY_JOB_ID": "31", "SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    variables = {**os.environ, **given, **path, **variables}
    return subprocess.Popen(["bash", str(SEEDS), "benchmark=toy"], cwd=folder, env=variables)


def running(folder: Path) -> subprocess.Popen[bytes]:
    """The same job, whose run has begun."""
    job = slurm(folder)
    wait_for((folder / "begun").exists, job)
    return job


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_lets_the_run_save_and_the_job_go_back_into_the_queue(tmp_path: Path, number: int) -> None:
    job = running(tmp_path)
    job.send_signal(number)
    assert job.wait(PATIENCE) == 130
    assert (tmp_path / "requeued").read_text() == "requeue 31_7\n"
    assert (tmp_path / "words").read_text() == "train benchmark=toy seed=7 threads=4 threads-variable=4\n"


@pytest.mark.parametrize("command", ["mtrl*", "run=[$]*"], ids=["before the run begins", "before its number is known"])
def test_a_signal_that_comes_early_puts_the_job_back_too(tmp_path: Path, command: str) -> None:
    signals = f"trap '[[ $BASH_COMMAND != {command} ]] || {{ trap - DEBUG; kill -TERM $$; }}' DEBUG\n"
    (tmp_path / "signals").write_text(signals)
    job = slurm(tmp_path, BASH_ENV=str(tmp_path / "signals"))
    assert job.wait(PATIENCE) == 137, "the run, which has nothing to save, is killed"
    assert (tmp_path / "requeued").read_text() == "requeue 31_7\n"


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_ends_by_itself_has_the_code_of_its_run(tmp_path: Path, code: int) -> None:
    job = running(tmp_path)
    (tmp_path / "enough").write_text(str(code))
    assert job.wait(PATIENCE) == code and not (tmp_path / "requeued").exists()


def commands() -> list[list[str]]:
    """What the examples run, and what they say to run."""
    job = yaml.safe_load((SCRIPTS / "kubernetes/seeds.yaml").read_text())
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    sweep = yaml.safe_load((SCRIPTS / "kubernetes/sweep.yaml").read_text())["spec"]
    slurm = re.findall(r"^#   sbatch .*seeds.sh (.*)", SEEDS.read_text(), flags=re.MULTILINE)
    seed = [word.replace("$(JOB_COMPLETION_INDEX)", "7") for word in container["args"]]
    return [seed, shlex.split(sweep["entrypoint"])[1:], *(["train", *shlex.split(words)] for words in slurm)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_their_commands_are_runs(words: list[str]) -> None:
    options = parse(words).options
    for run in experiment.sweep([word for word in options if not word.startswith("ray.")]):
        experiment.compose(run)


def test_a_shell_reads_the_sweep_as_it_is_written() -> None:
    """KubeRay passes the entry point to a shell."""
    command = yaml.safe_load((SCRIPTS / "kubernetes/sweep.yaml").read_text())["spec"]["entrypoint"]
    found = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == command.split()


def test_every_trial_fits_into_a_pod() -> None:
    spec = yaml.safe_load((SCRIPTS / "kubernetes/sweep.yaml").read_text())["spec"]
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        cores = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        assert cores % int(re.findall(r"ray.cpus=(\d+)", spec["entrypoint"])[0]) == 0
