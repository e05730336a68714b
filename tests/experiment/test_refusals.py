"""Bad input to the command line gives one line that says what was expected, exit code 2, and no trace of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mtrl import cli, configs
from mtrl.core.errors import UserError
from mtrl.experiment.config import ExperimentConfig
from mtrl.training.off_policy import OffPolicyTrainer
from tests.support.tiny_runs import TINY, files, run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["seed=1,2", "network.widht=3"], "Did you mean 'network.width'?"),
        (["surgery=pcgrad,none,pcgrat"], "Did you mean 'pcgrad'?"),
        (["surgery=none,pcgrad", "experiment=one"], "Found 'two runs named one with seed 1'"),
        (["agent.execution=plain,auto"], "Each run of a sweep should be in a folder of its own"),
    ],
)
def test_a_sweep_is_refused_before_its_first_run(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *TINY, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert not Path("runs").exists()


@pytest.mark.parametrize("arguments", [["--steps", "300"], ["--steps=300"]])
def test_options_written_as_flags_are_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *arguments]) == 2
    assert "options are written steps=VALUE" in capsys.readouterr().err


BAD = {
    "unknown key": (["agent.discnt=0.9"], "agent.discnt"),
    "unknown key at the top": (["sed=3"], "sed"),
    "wrong type": (["agent.batch_size=many"], "agent.batch_size"),
    "impossible value": (["agent.gamma=1.5"], "agent.gamma"),
    "impossible step count": (["steps=0"], "steps"),
    "unknown network": (["network=mnt"], "Did you mean 'mint'?"),
    "unknown surgery": (["surgery=pcgrd"], "Did you mean 'pcgrad'?"),
    "unknown benchmark": (["benchmark=mt11"], "mt10"),
    "unknown recipe": (["recipe=fast"], "quick"),
    "no value": (["agent.gamma"], "key=value"),
    "unknown device": (["device=gpu9"], "device"),
    "unknown diagnostics": (["diagnostics=triade"], "Did you mean 'triad'?"),
    "unknown diagnostics among several": (["diagnostics=[triad,transferense]"], "Did you mean 'transference'?"),
    "no diagnostics in brackets": (["diagnostics=[null]"], "or none, written []. Found 'null'"),
    "no diagnostics among several": (["diagnostics=[triad,null]"], "or none, written []. Found 'null'"),
    "a kind as an option": (["surgery.kind=cagrad"], "left out, as `surgery=...` chooses the kind"),
    "an option where there are none": (["surgery.c=0.4"], "left out, as nothing that is chosen here has it"),
    "nothing for a number": (["agent.batch_size=null"], "`agent.batch_size` should be set. Found 'null'."),
    "several surgeries": (["surgery=[pcgrad,mgda]"], "Found '[pcgrad,mgda]'"),
    "no surgery by null": (["surgery=null"], "Found 'null'"),
    "options of a surgery not chosen": (["critic_surgery.c=0.4"], "`critic_surgery.c`"),
    "diagnostics on nothing shared": (["network=independent", "diagnostics=triad"], "shares none"),
    "surgery on nothing shared": (["network=independent", "surgery=pcgrad"], "shares none"),
    "a misspelt option": (["network.widht=3"], "Did you mean 'network.width'?"),
    "a misspelt option at the top": (["stesp=3"], "Did you mean 'steps'?"),
    "an option added": (["+agent.discnt=0.9"], "without '+'"),
    "not an integer": (["steps=many"], "`steps` should be an integer. Found 'many'."),
    "not a number": (["agent.gamma=high"], "`agent.gamma` should be a number. Found 'high'."),
    "not a switch": (["video=maybe"], "`video` should be true or false. Found 'maybe'."),
    "an agent for other data": (["agent=bc"], "`agent` should be sac or td3 with training=off_policy. Found 'bc'."),
    "an agent without updates": (["agent=mean_pose"], "`agent` should be sac"),
    "an agent for images": (["agent=supervised"], "`agent` should be sac"),
    "training for goals": (
        ["training=goal_conditioned"],
        "`training` should be batch or off_policy or on_policy for benchmark",
    ),
    "another soft-modular depth": (["network=soft_modular", "network.depth=1"], "network.depth"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_end_in_one_line_and_write_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, named = BAD[name]
    assert cli.main(["train", *TINY, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mtrl: ") and captured.err.count("\n") == 1
    assert named in captured.err and "Found" in captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert not Path("runs").exists()


def test_an_option_of_a_part_within_a_part_may_be_called_kind() -> None:
    class Networks:
        group, many, kinds = "network", False, ("mine",)

        def options(self, kind: str) -> list[str]:
            return ["kind", "encoder"]

    chosen, registries = {"network": ["mine"]}, cast("Any", [Networks()])
    configs._check_option("network.encoder.kind", ExperimentConfig, registries, chosen)
    with pytest.raises(UserError, match="chooses the kind"):
        configs._check_option("network.kind", ExperimentConfig, registries, chosen)


def test_a_value_of_success_needs_success(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark=point", "agent=ppo", "training=on_policy", "agent.success_value=last_reward", "device=cpu"]
    assert cli.main(["train", *words]) == 2
    assert "`agent.success_value` should be critic where a benchmark does not tell success" in capsys.readouterr().err


def test_methods_of_critics_need_critics(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "benchmark=digit_domains", "critic_surgery=pcgrad", "steps=64", "device=cpu"]) == 2
    assert "`critic_surgery` should be left out for an agent with one network" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "nowhere"],
        ["evaluate"],
        ["plot", "nowhere"],
        ["list", "nonsense"],
        ["list", "networks", "network.width=8"],
        ["list", "--benchmark", "toy", "network.widht=8"],
        ["list", "surgery", "--benchmark", "toy"],
        ["bench", "nonsense"],
        ["nonsense"],
        [],
        ["evaluate", "nowhere", "--episodes", "many"],
        ["bench", "update", "--device", "nonsense"],
        ["bench", "precision", "--device", "cuda:99"],
        ["bench", "update", "--suites", "mt11"],
        ["bench", "update", "--repetitions", "0"],
        ["bench", "envs", "--suites", "mars"],
        ["bench", "envs", "--device", "tpu"],
        ["bench", "guards", "--compiled"],
        ["data", "fetch", "mnist", "--root", ""],
        ["data", "fetch", "cifar11"],
    ],
)
def test_bad_commands_end_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mtrl: ") and error.count("\n") == 1


def test_what_only_the_trainer_can_refuse_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.main(["train", *TINY, "runs=kept", "experiment=other"])
    before = files(Path("kept"))

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("Option `x` should be y. Found 'z'.")

    monkeypatch.setattr(OffPolicyTrainer, "start", refuse)
    capsys.readouterr()
    for root in ("runs", "kept"):
        assert cli.main(["train", *TINY, f"runs={root}"]) == 2
        assert "should be y" in capsys.readouterr().err
    assert not Path("runs").exists() and files(Path("kept")) == before
    assert cli.main(["train", *TINY, "runs=kept", "experiment=other", "steps=80"]) == 2
    assert {"config.yaml", "metrics.jsonl", "checkpoints"} <= {p.name for p in Path("kept/toy/other/seed_1").iterdir()}


@pytest.mark.parametrize(
    ("benchmark", "training", "fitting"),
    [
        ("pushing", "off_policy", "goal_conditioned"),
        ("toy", "behaviour_cloning", "batch or off_policy or on_policy"),
        ("toy", "supervised", "batch or off_policy or on_policy"),
    ],
)
def test_training_for_other_data_is_refused(
    benchmark: str, training: str, fitting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", f"benchmark={benchmark}", f"training={training}", "steps=10"]) == 2
    assert f"`training` should be {fitting} for benchmark {benchmark}" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_an_unwritable_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("a file in the way")
    assert cli.main(["train", *TINY]) == 2
    assert "runs" in capsys.readouterr().err
    assert Path("runs").read_text() == "a file in the way"


def test_a_checkpoint_of_another_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TINY])
    config = run_folder() / "config.yaml"
    config.write_text(config.read_text().replace("num_tasks: 4", "num_tasks: 3"))
    capsys.readouterr()
    assert cli.main(["evaluate", str(run_folder())]) == 2
    error = capsys.readouterr().err
    assert "should be one that fits" in error and error.count("\n") == 1
