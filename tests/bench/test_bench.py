"""The yardstick of the speed measurements computes what the toolkit computes; the measurements have their rows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from mtrl import cli
from mtrl.agents.sac import SAC
from mtrl.bench import offline, startup, train, update
from mtrl.bench.peers import naive_pcgrad, torchjd_pcgrad
from mtrl.bench.plain_sac import MultiHead, PlainSAC

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
    """Ordinary layers and autograd, written apart, from the same weights, batch and noise: the same parameters."""
    for name, value in {"OBSERVATION": OBSERVATION, "ACTION": ACTION, "WIDTH": WIDTH, "DEPTH": DEPTH}.items():
        monkeypatch.setattr(update, name, value)
    agent = update._agent(T, "none")
    torch.manual_seed(1)
    plain = PlainSAC(T, OBSERVATION, ACTION, WIDTH, DEPTH)
    for ours, theirs in all_pairs(agent, plain):
        ours.copy_(theirs)
    replay = update._replay(T)
    for step in range(5):
        batch = replay.sample(BATCH, torch.Generator().manual_seed(step))
        agent.generator.manual_seed(100 + step)
        torch.manual_seed(100 + step)
        agent.update(batch)
        plain.update(batch)
    for ours, theirs in all_pairs(agent, plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def test_rows_of_the_update_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    monkeypatch.setattr(update, "WIDTH", 8)
    monkeypatch.setattr(update, "BATCH", 4)
    assert cli.main(["bench", "update", "--quick", "--json", "--suites", "mt10", "--methods", "pcgrad,dwa,mgda"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [row["update"] for row in result["rows"]]
    assert names[:7] == ["plain", "joint", "pcgrad", "dwa", "mgda", "products", "naive_pcgrad"]
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in result["rows"])
    assert min(row["ratio"] for row in result["rows"][:2]) == 1
    assert [row["update"] for row in result["rows"] if "solver_ms" in row] == ["pcgrad", "mgda"]
    for row in result["rows"]:
        if "solver_ms" in row:
            assert 0 < row["solver_ms"] < row["ms"]
            left = row["ratio"] * (1 - row["solver_ms"] / row["ms"])
            assert row["ratio_without"] == pytest.approx(left)


def test_rows_of_the_offline_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TASKS": 2, "SIZE": 16, "BATCH": 2, "CHANNELS": [4, 8]}.items():
        monkeypatch.setattr(offline, name, value)
    assert cli.main(["bench", "offline", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["training"] for row in rows] == ["joint", "pcgrad", "moved pictures"]
    assert all(0 < row["share"] <= 1 and row["updates_per_second"] > 0 for row in rows)


def test_rows_of_the_train_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SIZES", {"tiny": train.Size(8, 4, 2, 0.5, 2, threads=1)})
    monkeypatch.setattr(train, "available_cores", lambda: 2)
    threads = torch.get_num_threads()
    assert cli.main(["bench", "train", "--quick", "--json"]) == 0
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in result["rows"]}
    assert list(rows) == ["environments", "updates", "updates_fewer_threads", "in_turn", "side_by_side", "split"]
    for row in rows.values():
        assert row["ms"] > 0 and 0 <= row["waiting"] <= 1 and row["peak_mb"] > 0
        assert row["of_sum"] == pytest.approx(row["ms"] / (rows["environments"]["ms"] + rows["updates"]["ms"]))
        assert row["of_larger"] == pytest.approx(row["ms"] / max(rows["environments"]["ms"], rows["updates"]["ms"]))
    (summary,) = result["summary"]
    assert summary["fastest"] == min(("in_turn", "side_by_side", "split"), key=lambda name: rows[name]["ms"])
    assert summary["within_1.05_of_sum"] == (rows["side_by_side"]["of_sum"] <= 1.05)


def test_rows_of_the_precision_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "WIDTH", 16)
    monkeypatch.setattr(update, "BATCH", 8)
    assert cli.main(["bench", "precision", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["networks"], row["part"]) for row in rows] == [
        (networks, part) for networks in ("float32", "bfloat16") for part in ("critic", "actor")
    ]
    assert all(row["error"] < 1e-4 and row["clear_signs"] == 0 for row in rows[:2])
    assert all(1e-4 < row["error"] < 0.5 for row in rows[2:])


def test_rows_of_the_startup_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "COMMANDS", {"unknown kind": ["train", "benchmark=toi"]})
    assert cli.main(["bench", "startup", "--quick", "--json"]) == 0
    rows = {row["command"]: row["seconds"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == ["python", "torch", "unknown kind"]
    assert 0 < rows["python"] < rows["torch"]
    with pytest.raises(RuntimeError, match=r"(?s)-c 1/0: .*ZeroDivisionError"):
        startup._run(["-c", "1/0"])


@pytest.mark.parametrize("name", ["naive", "torchjd"])
def test_the_peers_take_the_gradients_of_pcgrad(name: str) -> None:
    """Two tasks, where the order of projections does not matter: peers, and the paper's Algorithm 1 in float64."""
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


@pytest.mark.parametrize("arguments", [["--methods", "nonsense"], ["--suites", "mt11"]])
def test_unknown_rows_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "update", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
