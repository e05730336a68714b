"""The off-policy loop: what it counts, and that learners under it solve the toy suite."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from mtrl import experiment
from mtrl.core.errors import UserError
from mtrl.core.types import StepResult
from mtrl.training.control import EpisodeStatistics
from mtrl.training.evaluation import evaluate
from mtrl.training.off_policy import OffPolicyTrainer


def trainer(*options: str) -> tuple[experiment.Experiment, OffPolicyTrainer]:
    parts = experiment.Experiment(experiment.compose(["benchmark=toy", "device=cpu", "steps=100000", *options]))
    return parts, cast("OffPolicyTrainer", parts.trainer.start())


def play(loop: OffPolicyTrainer, steps: int) -> None:
    while loop.step < steps:
        loop.advance()


SMALL = ["network.width=8", "network.depth=1", "agent.batch_size=4", "training.learning_starts=10"]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_update_ratio_is_exact(copies: int, ratio: float, deterministic: bool) -> None:
    """From the step that ends the warm-up on, every step of each task earns `update_to_data` updates."""
    options = (f"training.envs_per_task={copies}", f"training.update_to_data={ratio}")
    _, loop = trainer(*SMALL, *options, f"training.deterministic={deterministic}")
    play(loop, 60)
    first = -(-10 // copies) * copies
    assert loop.step == 60
    assert loop.updates == int((60 - first + copies) * ratio)


@pytest.mark.parametrize("deterministic", [False, True])
def test_side_by_side_updates_lack_the_step_in_flight_and_actions_lack_no_update(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, loop = trainer(*SMALL, "training.learning_starts=1", f"training.deterministic={deterministic}")
    known, used = [], []
    update, act = parts.agent.update, parts.agent.act
    monkeypatch.setattr(parts.agent, "update", lambda *b: (known.append((loop.step, len(loop.replay))), update(*b))[1])
    monkeypatch.setattr(parts.agent, "act", lambda *o, **k: (used.append((loop.step, loop.updates)), act(*o, **k))[1])
    play(loop, 6)
    if deterministic:
        assert known == [(step, step) for step in range(1, 7)] and used == [(step, step) for step in range(1, 6)]
    else:
        assert known == [(1, 1), (1, 1), *((step, step) for step in range(2, 6))]
        assert used == [(1, 0), *((step, step) for step in range(2, 6))]


class Still:
    """A guide that does nothing and finds nothing valuable."""

    code: torch.Tensor | None = None

    def settle(self, context: object) -> None:
        self.code = torch.zeros(1)

    def act(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*observation.shape[:-1], 2)

    def value(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.zeros(action.shape[:-1])


@pytest.mark.parametrize("options", [["training.update_to_data=0.1"], ["training.learning_starts=1"]])
def test_a_guide_is_imitated_once_however_rare_updates_are(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loops, count = [], [0]
    for _ in range(2):
        made = ["benchmark=toy", "device=cpu", *SMALL, "training.imitation_updates=7", *options]
        parts = experiment.Experiment(experiment.compose(made))
        monkeypatch.setattr(parts.agent, "imitate", lambda *_: count.__setitem__(0, count[0] + 1))
        parts.trainer.begin_from(lambda: (Still(), 0))
        loops.append(cast("OffPolicyTrainer", parts.trainer.start()))
    play(loops[0], 15)
    loops[1].load_state_dict(loops[0].state_dict())
    loops[1].load_data_state(loops[0].data_state())
    for loop in loops:
        play(loop, 40)
    assert count == [7] and all(loop.updates > 0 for loop in loops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.envs_per_task=4", "training.buffer_size=3"], "`training.buffer_size` should be 4 or more"),
        (["collector=ray", "training.buffer_size=24"], "`training.buffer_size` should be 25 or more"),
        (["collector=ray", "training.deterministic=true"], "`training.deterministic` should be false with"),
        (
            ["agent=mbml", "training=batch", "training.first_context=rnadom"],
            "`training.first_context` should be one of",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment.compose(["benchmark=toy", *options])


def test_two_runs_side_by_side_give_the_same_numbers() -> None:
    weights = []
    for _ in range(2):
        parts, loop = trainer(*SMALL, "training.envs_per_task=2")
        play(loop, 60)
        weights.append(torch.cat([p.detach().flatten() for p in parts.agent.actor.parameters()]))
    assert torch.equal(*weights)


def test_success_counts_at_any_step_of_an_episode() -> None:
    statistics = EpisodeStatistics(2, 1)
    solved = [[False, True], [False, False], [False, False]]
    for step, row in enumerate(solved):
        end = np.full((2, 1), step == 2)
        zero = np.zeros((2, 1))
        statistics.add(StepResult(zero, zero + 1.5, end & False, end, zero, np.array(row)[:, None]))
    report = statistics.report()
    assert report["success"].tolist() == [0.0, 1.0]
    assert report["return"].tolist() == [4.5, 4.5]
    assert np.isnan(statistics.report()["success"]).all(), "each episode is reported once"


SAC = ["agent.initial_temperature=0.05"]
TD3 = ["agent=td3", "agent.exploration_noise=[0.3]", "agent.tau=0.02", "network.layer_norm=true"]
DISTRIBUTION = [
    *SAC, "network.layer_norm=true", "agent.value_head=hl_gauss", "agent.symlog=false", "agent.support=[0,10]",
    "agent.bins=31", "agent.n_step=3", "agent.normalise_observations=shared",
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "steps", "shuffled", "solved"),
    [
        pytest.param(SAC, 6000, False, True, id="sac"),
        pytest.param(SAC, 6000, True, False, id="sac-shuffled"),
        pytest.param(TD3, 7000, False, True, id="td3"),
        pytest.param(TD3, 7000, True, False, id="td3-shuffled"),
        pytest.param(DISTRIBUTION, 7000, False, True, id="sac-distribution-n_step-normalised"),
    ],
)
def test_learners_solve_the_toy_suite_and_not_with_shuffled_rewards(
    options: list[str], steps: int, shuffled: bool, solved: bool
) -> None:
    """Four tasks whose controls are turned against each other, one shared trunk, PCGrad."""
    _, loop = trainer(
        f"benchmark.shuffled_rewards={shuffled}", "surgery=pcgrad", "network.width=48", "network.depth=2",
        "agent.batch_size=48", "agent.learning_rate=3e-3", "agent.gamma=0.9", "training.learning_starts=300",
        "training.envs_per_task=4", "training.update_to_data=0.25", *options,
    )  # fmt: skip
    play(loop, steps)
    result = evaluate(loop.policy, loop.suite.make_evaluation_envs(7, 20, "goals"), 20)
    assert (result.success.mean() > 0.8) == solved
    assert (result.success.mean() < 0.4) == (not solved)
