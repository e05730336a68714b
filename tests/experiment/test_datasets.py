"""Data sets from runs, training on them, and SAC that starts from a policy trained on them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from mtrl import cli
from mtrl.core.types import Transitions
from mtrl.data import minari_files
from mtrl.experiment.datasets import _played, in_episodes
from mtrl.experiment.load import load
from mtrl.monitoring import checkpoints

pytest.importorskip("minari", reason="the extra `minari` is not installed")

SMALL = ["benchmark=point", "benchmark.num_tasks=3", "benchmark.unseen_tasks=2", "device=cpu", "network.width=8"]
SMALL += ["network.depth=1", "agent.batch_size=4", "training.final_episodes=2", "training.log_every=20"]
SAC = ["agent=sac", "training.learning_starts=25", "training.envs_per_task=2"]
BATCH = ["training=batch", "agent.candidates=2", "training.checkpoint_every=20"]
MBML = [*BATCH, "agent=mbml", "agent.teacher_updates=20", "agent.context_size=8", "agent.code_size=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of SAC, data sets of it, and a run of MBML that has learned from them."""
    path = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert cli.main(["train", *SMALL, *SAC, "steps=130", "experiment=sac"]) == 0
        assert cli.main(["data", "collect", "runs/point/sac/seed_1", "--episodes", "6", "--random", "1"]) == 0
        assert cli.main(["train", *SMALL, *MBML, "steps=40", "experiment=mbml"]) == 0
    return path


def test_episodes_end_where_the_next_observation_is_not_the_successor() -> None:
    observation = torch.arange(12.0).view(1, 12, 1)
    successor = observation + 1
    successor[0, 4] = 99  # an episode ended here
    terminated = torch.zeros(1, 12)
    terminated[0, 6] = 1
    batch = Transitions(observation, torch.zeros(1, 12, 2), torch.arange(12.0).view(1, 12), successor, terminated)
    found = list(in_episodes(batch, horizon=4))
    assert [len(e.rewards) for e in found] == [4, 1, 2, 4, 1]
    assert np.concatenate([e.rewards for e in found]).tolist() == list(range(12))
    assert found[1].observations[:, 0].tolist() == [4, 99] and [e.terminated.any() for e in found][2]


def test_random_actions_are_the_same_in_all_tasks_and_increase(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found = minari_files.read("datasets", "point", [f"goal-{t}" for t in range(3)], (2, 2), None)
    actions = torch.cat([data.transitions.action for data in found])
    shared = (actions == actions[:1]).all(0).all(-1).view(6, 20)
    assert shared[-1].all() and not shared[0].any()
    assert len({data.mean_return for data in found}) == 3


def test_a_replay_becomes_the_episodes_that_were_played(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has two copies of each task's environment. Each copy played three episodes and the start of a fourth."""
    monkeypatch.chdir(place)
    collect = ["data", "collect", "runs/point/sac/seed_1", "--replay", "--output", "replays"]
    assert cli.main(collect) == 0
    rows = checkpoints.newest(Path("runs/point/sac/seed_1/checkpoints"))
    assert rows is not None
    whole = torch.cat(list(rows.replay["blocks"].values()), 1)
    for task in range(3):
        found = minari_files.read("replays", "point", [f"goal-{task}"], (2, 2), None)[0].transitions
        parts = [found.observation, found.action, found.next_observation, found.reward[..., None]]
        written = torch.cat([*parts, found.terminated[..., None]], -1)[0]
        wanted = torch.cat([whole[task, 0::2], whole[task, 1::2]])
        assert len(written) == 130 and torch.equal(written, wanted)
        episodes = list(in_episodes(found.map(lambda part: part[:, :65]), 20))
        assert [len(e.rewards) for e in episodes] == [20, 20, 20, 5]


def test_an_existing_data_set_is_kept_if_it_is_the_same_or_else_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    file = Path("datasets/point/goal-0-v0/data/main_data.hdf5")
    before = file.stat().st_mtime_ns
    again = ["data", "collect", "runs/point/sac/seed_1", "--episodes", "6", "--random"]
    assert cli.main([*again, "1"]) == 0 and file.stat().st_mtime_ns == before
    assert cli.main([*again, "0.5"]) == 2
    assert "should be new, or 6 episodes" in capsys.readouterr().err


def test_a_data_set_that_is_missing_is_made_as_before(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    sets = [minari_files.place("datasets", "point", f"goal-{task}") for task in range(3)]
    before = minari_files.read("datasets", "point", ["goal-1"], (2, 2), None)[0].transitions
    kept = (sets[0] / "data" / "main_data.hdf5").stat().st_mtime_ns
    shutil.rmtree(sets[1])
    assert cli.main(["data", "collect", "runs/point/sac/seed_1", "--episodes", "6", "--random", "1"]) == 0
    after = minari_files.read("datasets", "point", ["goal-1"], (2, 2), None)[0].transitions
    assert all(torch.equal(old, new) for old, new in zip(before[:5], after[:5], strict=True))
    assert (sets[0] / "data" / "main_data.hdf5").stat().st_mtime_ns == kept


class _Fragile:
    """Environments of one task whose episodes end after a large action, or after 20 steps."""

    def __init__(self, copies: int) -> None:
        self.age = np.zeros((1, copies), int)

    def close(self) -> None: ...

    def reset(self) -> Any:
        return np.zeros((*self.age.shape, 1))

    def step(self, action: Any) -> Any:
        self.age += 1
        broken = np.abs(action[..., 0]) > 0.7
        truncated = ~broken & (self.age == 20)
        self.age[broken | truncated] = 0
        zeros = self.reset()
        return SimpleNamespace(
            reward=zeros[..., 0], terminated=broken, truncated=truncated, observation=zeros, next_observation=zeros
        )


def test_long_episodes_are_kept_though_short_ones_end_first() -> None:
    suite = SimpleNamespace(make_envs=lambda seed, copies: _Fragile(copies))
    trainer = SimpleNamespace(policy=lambda observation: np.zeros((*observation.shape[:-1], 1)))
    played = _played(cast("Any", SimpleNamespace(tasks=["a"], suite=suite, trainer=trainer)), 25, 1.0, 1)
    lengths = [len(episode.rewards) for episode in played[0]]
    assert len(lengths) == 25 and lengths[0] == 20, "the first episode has no random actions"
    assert np.mean(lengths[:5]) > 10 > 6 > np.mean(lengths[-5:])


@pytest.mark.parametrize("agent", ["bcq", "mbml"])
def test_a_batch_run_resumes_exactly(place: Path, monkeypatch: pytest.MonkeyPatch, agent: str) -> None:
    monkeypatch.chdir(place)
    options = [*SMALL, *(MBML if agent == "mbml" else [*BATCH, "agent=bcq"])]
    assert cli.main(["train", *options, "steps=40", f"experiment={agent}-whole"]) == 0
    for steps in (30, 40):
        assert cli.main(["train", *options, f"steps={steps}", f"experiment={agent}-parts"]) == 0
    whole, parts = (load(f"runs/point/{agent}-{name}/seed_1")[0].agent.state_dict() for name in ("whole", "parts"))
    for name, part in whole.items():
        if isinstance(part, dict):
            for key, tensor in part.items():
                assert not isinstance(tensor, torch.Tensor) or torch.equal(tensor, parts[name][key]), (name, key)


def test_mbml_is_evaluated_on_tasks_without_data_sets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    result = json.loads(Path("runs/point/mbml/seed_1/result.json").read_text())
    assert list(result["tasks"]) == ["unseen-0", "unseen-1"] and result["headline"] == "return"
    assert 0 <= result["mean_identified"] <= 1
    first, second = (load("runs/point/mbml/seed_1")[0].trainer.evaluate(3, "goals") for _ in range(2))
    assert first.per_task["return"].tolist() == second.per_task["return"].tolist()


@pytest.mark.parametrize("start", ["code", "random"])
def test_the_first_context_depends_on_the_policy_unless_its_actions_are_random(
    place: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.chdir(place)
    trainer = load("runs/point/mbml/seed_1")[0].trainer
    trainer.config.first_context, trainer.config.context_episodes = start, 2
    contexts, infer = list[torch.Tensor](), trainer.agent.infer
    monkeypatch.setattr(trainer.agent, "infer", lambda context: contexts.append(context.action) or infer(context))
    trainer.evaluate(3, "goals")
    first, both, _ = contexts  # the third is that of `identified`
    assert both.shape[1] == 2 * first.shape[1] and torch.equal(both[:, : first.shape[1]], first)
    for parameter in trainer.agent.generate.parameters():
        parameter.data.neg_()
    trainer.evaluate(3, "goals")
    assert torch.equal(contexts[3], first) == (start == "random") and not torch.equal(contexts[4], both)


def test_sac_starts_from_mbml(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It resumes exactly, whether it was interrupted before or after its first update."""
    monkeypatch.chdir(place)
    start = ["start=runs/point/mbml/seed_1", "network=mlp", "tasks=[unseen-0]", "training.imitation_updates=300"]
    options = [*SMALL, *SAC, *start, "agent.learning_rate=0.01", "training.checkpoint_every=10"]
    assert cli.main(["train", *options, "steps=40", "experiment=whole"]) == 0
    for steps in (14, 30, 40):
        assert cli.main(["train", *options, f"steps={steps}", "experiment=parts"]) == 0
    (whole, _, _), (parts, _, _) = (load(f"runs/point/{name}/seed_1") for name in ("whole", "parts"))
    states = [part.agent.state_dict() for part in (whole, parts)]
    for name in ("actor", "critic", "target"):
        assert all(torch.equal(states[0][name][key], states[1][name][key]) for key in states[0][name])
    assert cli.main(["train", *SMALL, *SAC, "start=runs/point/sac/seed_1", "steps=40", "experiment=no"]) == 2
    assert "`start` should be a run of agent=mbml" in capsys.readouterr().err
    other = ["benchmark=toy", "device=cpu", "steps=40", "start=runs/point/mbml/seed_1"]
    assert cli.main(["train", *other]) == 2
    assert re.search(
        r"should be a run with observations of \d+ numbers and actions of \d+\. Found ", capsys.readouterr().err
    )


def test_a_run_needs_the_run_that_it_began_from_until_it_has_imitated_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    guide, moved = Path("other/point/mbml"), Path("moved")
    shutil.copytree("runs/point/mbml", guide)
    options = [*SMALL, *SAC, f"start={guide}/seed_1", "network=mlp", "tasks=[unseen-0]", "training.imitation_updates=3"]
    assert cli.main(["train", *options, "steps=14", "experiment=early"]) == 0
    assert cli.main(["train", *options, "steps=30", "experiment=late"]) == 0
    shutil.move(guide, moved)
    assert cli.main(["train", *options, "steps=40", "experiment=late"]) == 0
    assert cli.main(["train", *options, "steps=40", "experiment=early"]) == 2
    assert str(guide) in capsys.readouterr().err
    shutil.move(moved, guide)
    assert cli.main(["train", *SMALL, *MBML, "steps=60", "experiment=mbml", "runs=other"]) == 0
    assert cli.main(["train", *options, "steps=40", "experiment=early"]) == 2
    assert "`start` should be a run at step 40, as when this run began from it. Found" in capsys.readouterr().err


def test_actor_and_critics_imitate_before_they_learn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    start = ["start=runs/point/mbml/seed_1", "network=mlp", "tasks=[unseen-0]", "agent.learning_rate=0.01"]
    assert cli.main(["train", *SMALL, *SAC, *start, "steps=24", "experiment=short"]) == 0
    (made, folder, _), guide = load("runs/point/short/seed_1"), load("runs/point/mbml/seed_1")[0].trainer.guide()
    trainer: Any = made.trainer.start()
    found = checkpoints.newest(folder.checkpoints)
    assert found is not None
    trainer.load_data_state(found.replay)
    trainer.config.imitation_updates = 300
    seen = trainer.replay.ordered()
    guide.settle(trainer._of_copies())
    values = guide.value(seen.observation, seen.action)

    def errors() -> list[torch.Tensor]:
        action = trainer.agent.act(seen.observation, explore=False)
        q = trainer.agent.critic(torch.cat([seen.observation, seen.action], -1)).squeeze(-1)
        return [(action - seen.action).square().mean(), (q - values).square().mean()]

    before = errors()
    trainer._imitate(guide)
    assert all(after < 0.3 * first for after, first in zip(errors(), before, strict=True))


def test_missing_data_sets_end_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, *BATCH, "agent=bcq", "steps=40", "experiment=none", f"training.data={place / 'nowhere'}"]
    assert cli.main(["train", *options, f"runs={place / 'runs'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Data sets should lie in" in error and "mtrl data collect RUN" in error


@pytest.mark.parametrize(
    ("agent", "option"),
    [("bcq", "agent.normalise_rewards=true"), ("mbml", "agent.normalise_observations=per_task")],
)
def test_statistics_that_data_sets_or_unseen_tasks_lack_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str], agent: str, option: str
) -> None:
    options = [*SMALL, *BATCH, f"agent={agent}", option, "steps=40", f"training.data={place / 'sets'}"]
    assert cli.main(["train", *options, f"runs={place / 'runs'}"]) == 2
    assert option.split("=")[0] in capsys.readouterr().err.splitlines()[-1]
