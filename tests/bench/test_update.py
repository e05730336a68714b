"""The yardstick and the peers of `mtrl bench update` compute what the toolkit does; known durations give known rows."""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import cli
from mtrl.agents.sac import SAC
from mtrl.bench import update
from mtrl.bench.peers import naive_pcgrad, torchjd_pcgrad
from mtrl.bench.plain_sac import MultiHead, PlainSAC, joint
from mtrl.core.errors import UserError
from mtrl.execution import tracing
from mtrl.gradients.surgery.pcgrad import PCGrad
from mtrl.gradients.surgery.torchjd_methods import TorchJD
from mtrl.gradients.weightings.dwa import DWA
from tests.support.clock import Clock

T, OBSERVATION, ACTION, WIDTH, DEPTH, BATCH = 3, 5, 2, 16, 2, 8


def paired(network: dict[str, Tensor], own: dict[str, Tensor], plain: list[MultiHead]) -> list[tuple[Tensor, Tensor]]:
    """(ours, the yardstick's) for each parameter; the yardstick has one module for each member of the ensemble."""
    pairs = []
    for depth in range(DEPTH):
        for kind in ("weight", "bias"):
            theirs = torch.stack([getattr(m.trunk[2 * depth], kind).data for m in plain])
            pairs.append((network[f"0/blocks/{depth}/0/{kind}"].data, theirs))
    pairs.append((own["1/weight"].data, torch.stack([m.weight.data.mT for m in plain], 1)))
    pairs.append((own["1/bias"].data, torch.stack([m.bias.data.squeeze(1) for m in plain], 1)))
    return pairs


def all_pairs(agent: SAC, plain: PlainSAC) -> list[tuple[Tensor, Tensor]]:
    critics, targets = ([m for m in modules if isinstance(m, MultiHead)] for modules in (plain.critics, plain.targets))
    pairs = paired(dict(agent.critic.shared.items()), dict(agent.critic.own.items()), critics)
    pairs += paired(dict(agent.target.shared.items()), dict(agent.target.own.items()), targets)
    actor = paired(dict(agent.actor.shared.items()), dict(agent.actor.own.items()), [plain.actor])
    pairs += [(ours, theirs.view_as(ours)) for ours, theirs in actor]
    return [*pairs, (agent.log_alpha.data, plain.log_alpha.data)]


def test_the_yardstick_and_the_agent_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same weights, batch and noise, ordinary layers and autograd give the same parameters."""
    for name, value in {"OBSERVATION": OBSERVATION, "ACTION": ACTION, "DEPTH": DEPTH}.items():
        monkeypatch.setattr(update, name, value)
    agent = update.make_agent(T, "none", width=WIDTH)
    torch.manual_seed(1)
    plain = PlainSAC(T, OBSERVATION, ACTION, WIDTH, DEPTH)
    for ours, theirs in all_pairs(agent, plain):
        ours.copy_(theirs)
    replay = update.filled_replay(T)
    for step in range(5):
        batch = replay.sample(BATCH, torch.Generator().manual_seed(step))
        agent.generator.manual_seed(100 + step)
        torch.manual_seed(100 + step)
        agent.update(batch)
        plain.update(batch)
    for ours, theirs in all_pairs(agent, plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def update_rows(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, dict[str, Any]]:
    assert cli.main(["bench", "update", "--quick", "--json", "--suites", "mt10", "--width", "8", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["width"] == 8
    return {row["update"]: row for row in found["rows"]}


@pytest.mark.parametrize(("plain", "base"), [(4.0, 2.0), (1.0, 1.0)], ids=["joint-is-faster", "plain-is-faster"])
def test_ratios_of_updates_of_known_durations(
    plain: float, base: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real updates, with milliseconds of our choice: 2 for the toolkit's, and more for what a method adds in critic and
    actor (DWA adds its time once, as the actor takes the critic's weights). The peers are measured later, when the
    machine is half as fast."""
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    monkeypatch.setattr(update, "BATCH", 4)
    clock = Clock(monkeypatch)
    clock.takes(SAC, "update", 2.0)
    clock.takes(PlainSAC, "update", lambda self, _: {joint: plain, naive_pcgrad: 30.0}.get(self.backward, 20.0))
    for method, name, each in ((PCGrad, "coefficients", 0.5), (TorchJD, "coefficients", 1.0), (DWA, "weights", 0.25)):
        clock.takes(method, name, each)
    measured = update.interleaved

    def slower_and_slower(*arguments: Any, **options: Any) -> dict[str, list[float]]:
        found = measured(*arguments, **options)
        clock.slowness *= 2
        return found

    monkeypatch.setattr(update, "interleaved", slower_and_slower)
    rows = update_rows(capsys, "--methods", "pcgrad,dwa,mgda")
    ms = {"plain": plain, "joint": 2.0, "pcgrad": 3.0, "dwa": 2.25, "mgda": 4.0, "products": 0.0}
    ms |= {"naive_pcgrad": 30.0, "torchjd_pcgrad": 20.0}
    assert {name: row["ms"] for name, row in rows.items()} == pytest.approx(ms)
    assert list(rows) == list(ms)
    assert {name: row["ratio"] for name, row in rows.items()} == pytest.approx({k: v / base for k, v in ms.items()})
    assert {name: row["solver_ms"] for name, row in rows.items() if "solver_ms" in row} == pytest.approx(
        {"pcgrad": 1.0, "mgda": 2.0}
    )
    assert [rows[name]["ratio_without"] for name in ("pcgrad", "mgda")] == pytest.approx([2.0 / base] * 2)


def test_one_slow_repetition_does_not_change_the_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "BATCH", 4)
    clock = Clock(monkeypatch)
    clock.takes(PlainSAC, "update", 4.0)
    clock.takes(SAC, "update", 2.0)
    # Two calls in each update: five to warm up, then five that count.
    slow = itertools.chain([9.0] * 2 * 5, [1.0] * 2 * 2, [500.0] * 2, itertools.repeat(1.0))
    clock.takes(PCGrad, "coefficients", lambda *_: next(slow))
    row = update_rows(capsys)["pcgrad"]
    assert (row["ms"], row["ratio"], row["solver_ms"]) == pytest.approx((4.0, 2.0, 2.0))
    assert row["quartiles"] == pytest.approx([4.0, (4.0 + 1002.0) / 2])


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_updates_as_asked_are_timed(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "BATCH", 4)
    clock = Clock(monkeypatch)
    clock.takes(SAC, "update", 2.0)
    call = update.updates(T, "pcgrad", count, execution="plain")
    call()
    assert clock.now == pytest.approx(2e-3 * count)


def test_updates_that_cannot_be_compiled_give_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no headers")

    monkeypatch.setattr(tracing, "_compile", fail)
    with pytest.raises(UserError, match="Updates to be timed should be compiled"):
        update.updates(2, "none", width=8, execution="compiled")()


def test_on_a_gpu_methods_that_work_on_the_host_are_only_timed_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "updates", lambda *_, **options: partial(str, options))
    rows = update.gpu_rows("mt10", ["pcgrad", "upgrad"], 1, "cpu", width=8)
    assert [row["update"] for row in rows if row["update"].startswith("upgrad")] == ["upgrad plain tf32"]
    assert sum(row["update"].startswith("pcgrad") for row in rows) == 5


@pytest.mark.parametrize("name", ["naive", "torchjd"])
def test_the_peers_take_the_gradients_of_pcgrad(name: str) -> None:
    """With two tasks, where the order of projections does not matter: peers against Algorithm 1 in float64."""
    backward = naive_pcgrad if name == "naive" else torchjd_pcgrad()
    if backward is None:
        pytest.skip("torchjd is not installed")
    shared, own = torch.randn(6, requires_grad=True), torch.randn(2, requires_grad=True)
    directions = torch.tensor([[1.0, 2, 0, 1, 0, 0], [-1.0, -1, 3, 0, 1, 0]])
    backward(directions @ shared + own, [shared], [own])
    g, h = directions.double()
    expected = (g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g) / 2
    assert shared.grad is not None and own.grad is not None
    torch.testing.assert_close(shared.grad.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own.grad, torch.full((2,), 0.5))
