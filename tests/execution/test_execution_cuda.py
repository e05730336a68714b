"""What only a GPU can show: captured updates are the plain ones, wait for nothing, and keep the signs of conflicts."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mtrl.execution import runners, tracing
from mtrl.execution.precision import float32_products
from mtrl.execution.runners import Captured
from mtrl.execution.tracing import Traced
from mtrl.gradients.algebra import gramian
from mtrl.networks import NETWORKS
from tests.support.learners import Experience, agent, copy_state, distance, methods, tensors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Anything that waits for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def pair(method: str, first: str = "plain", second: str = "captured", **options: Any) -> tuple[Experience, ...]:
    """Two agents alike, which run their updates in these ways, with the same experience."""
    made = [agent(method, device="cuda", execution=kind, **options) for kind in (first, second)]
    return tuple(Experience(learner) for learner in made)


def step(experience: Experience, count: int = 1) -> dict[str, torch.Tensor]:
    return experience.learner.learn(experience.draw, count)


@pytest.mark.parametrize("method", methods())
def test_one_captured_update_is_the_plain_one_from_a_hundred_states(method: str) -> None:
    plain, captured = pair(method, precision="float32")
    step(plain)
    step(captured)
    for _ in range(100):
        copy_state(plain.learner, captured.learner)
        first, second = step(plain), step(captured)
        assert distance(tensors(plain.learner), tensors(captured.learner)) < 1e-5
        assert distance([first["critic/loss"]], [second["critic/loss"]]) < 1e-5
        plain.grow()
        captured.grow()
    assert torch.equal(plain.learner.generator.get_state(), captured.learner.generator.get_state())


@pytest.mark.parametrize("network", NETWORKS.kinds)
def test_captured_updates_of_every_network(network: str) -> None:
    plain, captured = pair("none", network=network, precision="float32")
    for _ in range(5):
        step(plain)
        step(captured)
    assert distance(tensors(plain.learner), tensors(captured.learner)) < 1e-4


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("kind", ["plain", "captured"])
def test_no_update_waits_for_the_device(kind: str, method: str) -> None:
    """Sampling, critics, actor, temperatures, targets, weighting and surgery."""
    experience = Experience(agent(method, device="cuda", execution=kind))
    step(experience, 3)
    with no_waiting():
        step(experience, 3)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_one_compiled_update_is_the_plain_one_from_a_hundred_states_and_waits_for_nothing(
    dtype: torch.dtype, near: float
) -> None:
    """In float64 they are one function, and in float32 nearly."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        plain, compiled = pair("pcgrad", second="compiled", precision="float32")
        step(plain)
        step(compiled)
        assert isinstance(compiled.learner._learner[1]._runner, Captured)  # type: ignore[index]
        for _ in range(100):
            copy_state(plain.learner, compiled.learner)
            step(plain)
            with no_waiting():
                step(compiled)
            assert distance(tensors(plain.learner), tensors(compiled.learner)) < near
            plain.grow()
            compiled.grow()
    finally:
        torch.set_default_dtype(default)
    assert tensors(plain.learner)[0].dtype == dtype


def test_auto_goes_from_plain_to_captured_to_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In TF32: the networks use it in all three, and the tasks' inner products in none."""
    monkeypatch.setattr(runners, "PATIENCE", {"cuda": 4})
    plain, auto = pair("pcgrad", second="auto")
    for done in range(8):
        step(plain)
        step(auto)
        assert distance(tensors(plain.learner), tensors(auto.learner)) < 1e-3
        runner = auto.learner._learner[1]._runner  # type: ignore[index]
        assert isinstance(runner, Captured)
        assert isinstance(runner._recorded, Traced) == (done >= 4)
    assert not [record for record in caplog.records if record.name.startswith("mtrl")]


def test_a_compiler_that_fails_leaves_updates_captured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no headers")

    monkeypatch.setattr(tracing, "_compile", fail)
    experience = Experience(agent(device="cuda", execution="compiled"))
    step(experience)
    runner = experience.learner._learner[1]._runner  # type: ignore[index, union-attr]
    assert isinstance(runner, Captured) and not isinstance(runner._recorded, Traced)
    assert "no headers" in caplog.text


def test_many_updates_of_one_launch_are_as_many_launches() -> None:
    one, many = pair("pcgrad", "captured", updates_per_launch=4)
    one.learner.config.updates_per_launch = 1
    for _ in range(6):
        step(one)
    step(many, 6)
    assert all(torch.equal(a, b) for a, b in zip(tensors(one.learner), tensors(many.learner), strict=True))


def test_a_capture_leaves_no_trace_in_the_state() -> None:
    """The first captured update starts from where the agent was, moments and generator included."""
    plain, captured = pair("pcgrad", precision="float32")
    step(plain)
    step(captured)
    assert distance(tensors(plain.learner), tensors(captured.learner)) < 1e-5
    assert torch.equal(plain.learner.generator.get_state(), captured.learner.generator.get_state())


@pytest.mark.parametrize("kind", ["plain", "captured", "compiled"])
def test_saved_updates_go_on_bit_for_bit(kind: str) -> None:
    first = Experience(agent("pcgrad", device="cuda", execution=kind))
    step(first, 5)
    second = Experience(agent("pcgrad", seed=9, device="cuda", execution=kind))
    second.learner.load_state_dict(copy.deepcopy(first.learner.state_dict()))
    step(first, 5)
    step(second, 5)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first.learner), tensors(second.learner), strict=True))


def test_states_move_between_a_cpu_and_a_gpu() -> None:
    """A run on a CPU goes on with captured updates on a GPU, and then on the CPU again."""
    on_cpu = Experience(agent("pcgrad"))
    step(on_cpu, 3)
    on_gpu = Experience(agent("pcgrad", device="cuda"))
    assert on_gpu.learner.execution == "auto"
    on_gpu.learner.load_state_dict(on_cpu.learner.state_dict())
    step(on_gpu, 3)
    assert isinstance(on_gpu.learner._learner[1]._runner, Captured)  # type: ignore[index]
    on_cpu.learner.load_state_dict(on_gpu.learner.state_dict())
    step(on_cpu, 3)
    assert all(t.isfinite().all() for t in tensors(on_cpu.learner) if t.is_floating_point())


@pytest.mark.parametrize("tasks", [3, 10, 50])
@pytest.mark.parametrize("columns", [3, 511, 512, 1021, 17200])
def test_inner_products_are_those_of_float64(columns: int, tasks: int) -> None:
    """Whether the columns come in equal pieces or not."""
    generator = torch.Generator("cuda").manual_seed(columns)
    blocks = [torch.randn(tasks, n, device="cuda", generator=generator) for n in (columns, 700, 5)]
    exact = sum(block.double() @ block.double().T for block in blocks)
    assert isinstance(exact, torch.Tensor)
    with float32_products("high"):
        found = gramian(blocks).double()
    assert ((found - exact).abs() / exact.diagonal().max()).max() < 1e-6


def gradients(learner: Any, experience: Experience) -> list[torch.Tensor]:
    """Blocks (T, n) of the critics' per-task gradients on a batch."""
    alpha = learner.log_alpha.detach().exp().unsqueeze(-1)
    batch = learner.critic_batch(experience.draw()[0], alpha)
    leaves, own, buffers = learner.critic.per_task_leaves(), *learner.critic.tensors[1:]
    losses, _ = learner.critic_losses(leaves, own, buffers, batch)
    return [g.flatten(1) for g in torch.autograd.grad(losses.sum(), list(leaves.values()))]


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_the_gramian_has_the_signs_of_float64(precision: str) -> None:
    """Of the same gradients, whatever precision the networks have."""
    experience = Experience(agent("pcgrad", device="cuda", precision=precision))
    for _ in range(20):
        step(experience)
        with float32_products("high"):
            blocks = gradients(experience.learner, experience)
            found = gramian(blocks)
        exact = sum(block.double() @ block.double().T for block in blocks)
        assert isinstance(exact, torch.Tensor)
        norms = exact.diagonal().sqrt()
        clear = exact.abs() > 1e-6 * norms.unsqueeze(0) * norms.unsqueeze(1)
        assert torch.equal(found.sign()[clear], exact.sign()[clear].to(found))
        assert clear.double().mean() > 0.9
