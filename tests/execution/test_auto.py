"""Which way updates run: what auto chooses and when, what makes no sense here, and what happens when a way fails."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from mtrl import cli
from mtrl.agents.sac import SAC
from mtrl.core.errors import UserError
from mtrl.execution import runners, tracing
from tests.support.learners import Experience, agent, distance, tensors


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Auto compiles after four updates, and compiling leaves the graph as it is. A list for the notes about it."""
    monkeypatch.setattr(runners, "PATIENCE", {"cpu": 4})
    monkeypatch.setattr(runners, "_finds_compiler", lambda: True)
    monkeypatch.setattr(tracing, "_compile", lambda graph, inputs: graph)
    return []


def _deferred(seed: int, notes: list[str]) -> tuple[SAC, Experience]:
    learner = agent(seed=seed)
    learner.announce = notes.append
    return learner, Experience(learner)


def test_auto_compiles_in_a_long_run_and_goes_on_bit_for_bit(impatient: list[str]) -> None:
    """Whether the state was saved before or after compiling."""
    plain, (learner, same), saved = agent(execution="plain"), _deferred(0, impatient), {}
    data = Experience(plain)
    for done in range(8):
        saved[done] = copy.deepcopy(learner.state_dict())
        assert len(impatient) == (done > 4)
        plain.learn(data.draw, 1)
        learner.learn(same.draw, 1)
        assert distance(tensors(plain), tensors(learner)) < 1e-5
        assert done >= 4 or all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(learner), strict=True))
    for done, state in saved.items():
        other, again = _deferred(9, impatient)
        other.load_state_dict(state)
        for _ in range(8 - done):
            other.learn(again.draw, 1)
        assert all(torch.equal(a, b) for a, b in zip(tensors(learner), tensors(other), strict=True)), done


def _assert_it_stays_plain(notes: list[str]) -> None:
    """Auto's updates beyond its patience are the plain ones, bit for bit."""
    plain, (learner, same) = agent(execution="plain"), _deferred(0, notes)
    data = Experience(plain)
    for _ in range(8):
        plain.learn(data.draw, 1)
        learner.learn(same.draw, 1)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(learner), strict=True))


@pytest.mark.parametrize("error", [RuntimeError, UserError])
def test_a_compilation_that_fails_leaves_auto_plain(
    error: type[Exception], impatient: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for updates that can never be compiled."""

    def fail(*_: Any) -> None:
        raise error("no headers")

    monkeypatch.setattr(tracing, "_compile", fail)
    _assert_it_stays_plain(impatient)
    assert caplog.text.count("no headers") == 1 and len(impatient) == 1


def test_a_faster_update_that_is_another_one_is_not_used(
    impatient: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here one that moves its target networks twice."""

    def wrong(graph: fx.GraphModule, _: Any) -> fx.GraphModule:
        node = [n for n in graph.graph.nodes if "lerp" in str(n.target)][-1]
        with graph.graph.inserting_after(node):
            graph.graph.node_copy(node)
        graph.recompile()
        return graph

    monkeypatch.setattr(tracing, "_compile", wrong)
    _assert_it_stays_plain(impatient)
    assert "from the plain one" in caplog.text


def test_faster_acting_that_is_another_one_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Acting changes no state, so its results are compared."""
    right, wrong = (runners.Plain(lambda value=value: {"action": torch.full((2,), value)}) for value in (1.0, 2.0))
    snapshot = runners.Snapshot(dict, torch.Generator())
    for fast, used in ((right, True), (wrong, False)):
        auto = runners.Auto(right, [(0, fast)], lambda: 0, snapshot)
        assert torch.equal(auto(1)["action"], torch.ones(2))
        assert ("from the plain one" not in caplog.text) is used


def test_what_makes_no_sense_here_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`agent.execution` should be plain or compiled on cpu. Found 'captured'"):
        agent(execution="captured")
    with pytest.raises(ValueError, match=r"`agent.execution` should be one of auto, plain"):
        agent(execution="fast")
    assert agent(execution="plain").execution == "plain"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("agent.execution=captured", "`agent.execution` should be plain or compiled on cpu. Found 'captured'."),
        ("agent.execution=fast", "`agent.execution` should be one of auto, plain, compiled, captured. Found 'fast'."),
        ("agent.precision=half", "`agent.precision` should be one of tf32, float32, bfloat16. Found 'half'."),
    ],
)
def test_the_command_line_refuses_in_one_line_and_leaves_no_run(
    option: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["train", "benchmark=toy", "device=cpu", f"runs={tmp_path}", option]) == 2
    assert capsys.readouterr().err == f"mtrl: Option {message}\n"
    assert not list(tmp_path.iterdir())


def test_the_choice_of_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{sys.executable} -c")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert runners.choose("auto", gpu, None) == "auto"
    assert runners.choose("auto", gpu, "this surgery") == "plain"
    assert runners.choose("auto", cpu, None) == "auto"
    assert runners.choose("auto", cpu, "this surgery") == "plain"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert runners.choose("auto", cpu, None) == "plain"
    with pytest.raises(ValueError, match="plain with this surgery"):
        runners.choose("captured", gpu, "this surgery")


def test_a_pytorch_that_was_not_tested_leaves_auto_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{sys.executable} -c")
    assert runners.choose("auto", torch.device("cpu"), None) == "auto"
    monkeypatch.setattr(runners, "TESTED", ("1.0",))
    assert runners.choose("auto", torch.device("cpu"), None) == "plain"


def test_a_pytorch_without_the_private_parts_goes_on_plain(
    impatient: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With auto, updates stay plain and the log says why. Asking for compiled updates is refused."""
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.proxy_tensor", None)
    _assert_it_stays_plain(impatient)
    assert "torch.fx.experimental.proxy_tensor" in caplog.text
    with pytest.raises(ValueError, match=r"`agent.execution` should be plain with PyTorch .*tested with 2.11, 2.13"):
        agent(execution="compiled")
