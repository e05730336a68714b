"""Ways to run updates: op by op, captured in a CUDA graph, or compiled (on a GPU, compiled updates are also captured).

Each runs one function without arguments. The function draws its batches, changes parameters, optimiser state and
buffers in place, and reads nothing back to the host. In compiled and captured updates, Python runs only the first time,
so the function may depend only on tensors, each at a fixed address.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtrl.core.config import check, check_choice
from mtrl.core.errors import UserError, expected
from mtrl.core.types import Metrics

logger = logging.getLogger(__name__)

CHOICES = ("auto", "plain", "compiled", "captured")
TESTED = ("2.11", "2.13", "2.14")
"""Versions of PyTorch with which tracing and compilation were tested; both use private parts of it."""
PRIVATE = ("torch._inductor.compile_fx", "torch._inductor.decomposition", "torch.fx.experimental.proxy_tensor")
"""Private parts of PyTorch that compilation needs; a later version may lack them."""
PATIENCE = {"cpu": 5_000, "cuda": 50_000}
"""Updates after which auto compiles: half a minute of compilation pays off only in a long run."""
TOLERANCE = 0.1
"""The largest accepted difference between a faster update and the plain one, relative to the change that the plain one
makes to a tensor. This detects faults: rounding differences are a hundred times smaller."""
WARMUP = 3
"""Updates before a capture, in which libraries choose their kernels and optimisers create their state."""

Update = Callable[[], Metrics]


class Runner(Protocol):
    """A way to run updates."""

    def prepare(self) -> object:
        """Get ready for the next call. This may take long, but does not change the state."""
        ...

    def __call__(self, count: int, /) -> Metrics:
        """Run `count` updates. Returns the last one's metrics, in tensors that the next call may overwrite."""
        ...


def choose(wanted: str, device: torch.device, host_bound: str | None) -> str:
    """The execution, one of `CHOICES`, for a value `wanted` of `agent.execution`.

    auto stays auto on a GPU, and on a CPU with a C++ compiler and one of the `TESTED` versions of PyTorch, unless there
    is a host-bound part. Elsewhere it becomes plain. Where it stays auto, updates are captured (on a GPU) and, after
    `PATIENCE` updates, compiled if that works.

    Args:
        host_bound: the name of a part of the update that waits for the device or depends on the host, or None.

    Raises:
        UserError: `wanted` is unknown, or impossible on this device, with this PyTorch or with that part.
    """
    check_choice("agent.execution", wanted, CHOICES)
    on_gpu = device.type == "cuda"
    if wanted == "auto":
        works = on_gpu or (device.type == "cpu" and _is_tested() and _finds_compiler())
        return "auto" if works and host_bound is None else "plain"
    if wanted == "plain":
        return wanted
    check(on_gpu or wanted != "captured", "agent.execution", f"plain or compiled on {device.type}", wanted)
    check(host_bound is None, "agent.execution", f"plain with {host_bound}, which works on the host", wanted)
    if wanted == "compiled":
        _check_compiler(device)
    return wanted


def build(
    kind: str,
    update: Update,
    state: Callable[[], Mapping[str, Any]],
    generator: torch.Generator,
    per_launch: int = 1,
    done: Callable[[], int] = lambda: 0,
    announce: Callable[[str], None] = lambda _: None,
    products: str = "highest",
) -> Runner:
    """The runner of `update` for an execution that `choose` returned.

    Args:
        state: all tensors that an update changes, in nested dictionaries and lists. Tensors that appear with the first
            update should start at zero, as Adam's moments do.
        generator: the source of all randomness of an update.
        per_launch: updates in one launch of a graph, if a call asks for so many.
        done: returns the number of updates so far, including those before a resume.
        announce: called with a line for the user before something slow.
        products: the precision of float32 products in `update`, highest or high, except for those that it computes in
            full precision.
    """
    plain = Plain(update)
    if kind == "plain":
        return plain
    from mtrl.execution.tracing import Traced

    snapshot, on_gpu = Snapshot(state, generator), generator.device.type == "cuda"
    compiled: Runner = Traced(update, snapshot, announce=announce, products=products)
    if on_gpu:
        compiled = Captured(compiled, snapshot, generator, per_launch)
    captured = Captured(plain, snapshot, generator, per_launch)
    if kind == "captured":
        return captured
    # A compiler may fail or be wrong: its update is used only if it matches the plain one from the current state.
    patience = PATIENCE[generator.device.type] if kind == "auto" else 0
    stages = [*([(0, captured)] if on_gpu else []), (patience, compiled)]
    return Auto(plain, stages, done, snapshot, strict=kind == "compiled")


class Snapshot:
    """A context that restores, bit for bit, what updates inside it change: tensors, in place, and the generator."""

    def __init__(self, state: Callable[[], Mapping[str, Any]], generator: torch.Generator) -> None:
        self._state, self._generator = state, generator
        self._kept: list[tuple[dict[int, tuple[Tensor, Tensor]], Tensor]] = []

    def __enter__(self) -> None:
        kept = {t.data_ptr(): (t, t.clone()) for t in tensors(self._state())}
        self._kept.append((kept, self._generator.get_state()))

    def __exit__(self, *_: object) -> None:
        kept, random = self._kept.pop()
        with torch.no_grad():
            for tensor in tensors(self._state()):
                if tensor.data_ptr() not in kept:
                    tensor.zero_()
            for tensor, value in kept.values():
                tensor.copy_(value)
        self._generator.set_state(random)

    def largest_difference(self, first: Runner, second: Runner) -> float:
        """The largest ‖second − first‖ / ‖first − before‖ of a tensor, after one update from this state by each runner.

        Rounding differences in tensors that the update hardly changes do not count. Where an update changes no tensor,
        as in acting, its results are compared instead.
        """
        before, ways = [t.double() for t in tensors(self._state())], []
        for runner in (first, second):
            with self:
                found = runner(1)
                after = list(tensors(self._state())) or list(found.values())
                ways.append([t.double().nan_to_num() for t in after])
        before, largest = before or [torch.zeros_like(t) for t in ways[0]], 0.0
        for old, new, other in zip(before, *ways, strict=True):
            moved, apart, size = (float(x.norm()) for x in (new - old.nan_to_num(), other - new, new))
            largest = max(largest, apart / (moved + 1e-5 * size) if apart > 0 else 0.0)
        return largest


class Plain:
    """Runs updates op by op."""

    def __init__(self, update: Update) -> None:
        self._update = update

    def prepare(self) -> None:
        pass

    def __call__(self, count: int) -> Metrics:
        metrics: Metrics = {}
        for _ in range(count):
            metrics = self._update()
        return metrics


class Auto:
    """Runs updates op by op at first, and then by faster runners. One that fails is not used, and the log says why."""

    def __init__(
        self,
        plain: Runner,
        stages: Sequence[tuple[int, Runner]],
        done: Callable[[], int],
        snapshot: Snapshot,
        strict: bool = False,
    ) -> None:
        """stages: pairs (n, runner), where the runner is used after n updates, in increasing order of n.

        strict: whether updates that can never be run in a faster way (a `UserError`) end the run.
        """
        self._plain, self._stages, self._done, self._snapshot = plain, list(stages), done, snapshot
        self._strict = strict
        self._runner = plain
        self.failed = False  # whether a faster runner could not be used

    def prepare(self) -> None:
        while self._stages and self._done() >= self._stages[0][0]:
            _, fast = self._stages.pop(0)
            try:
                fast.prepare()
                apart = self._snapshot.largest_difference(self._plain, fast)
                if not apart <= TOLERANCE:
                    raise RuntimeError(f"an update differs by {apart:.2g} of its length from the plain one")
                self._runner = fast
            except Exception as error:
                if self._strict and isinstance(error, UserError):
                    raise
                self.failed = True
                logger.warning("A faster way to run updates failed, so they continue as before: %s", error)

    def __call__(self, count: int) -> Metrics:
        self.prepare()
        return self._runner(count)


class Captured:
    """Updates as CUDA graphs: one for a single update, and one for `per_launch` updates, if a call asks for so many."""

    def __init__(self, runner: Runner, snapshot: Snapshot, generator: torch.Generator, per_launch: int) -> None:
        self._recorded, self._snapshot, self._generator = runner, snapshot, generator
        self._per_launch = per_launch
        self._stream: torch.cuda.Stream | None = None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Metrics]] = {}

    def prepare(self, size: int = 1) -> None:
        """Capture `size` updates, unless that has been done. The state does not change."""
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)

    def __call__(self, count: int) -> Metrics:
        metrics: Metrics = {}
        while count:
            size = self._per_launch if count >= self._per_launch else 1
            self.prepare(size)
            graph, metrics = self._graphs[size]
            graph.replay()
            count -= size
        return metrics

    def _capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, Metrics]:
        """Warm up and capture on one stream, so that the backward pass also stays on it."""
        graph, stream = torch.cuda.CUDAGraph(), self._stream or torch.cuda.Stream(self._generator.device)
        self._stream = stream
        with self._snapshot:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    self._recorded(1)
            torch.cuda.current_stream(stream.device).wait_stream(stream)
            with warnings.catch_warnings(action="ignore"):  # newer versions of PyTorch register it, too, and warn
                graph.register_generator_state(self._generator)
            with torch.cuda.graph(graph, stream=stream):
                metrics = self._recorded(size)
        return graph, metrics


def tensors(state: Any) -> Iterator[Tensor]:
    """The tensors in nested dictionaries and sequences."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping | list | tuple):
        for value in state.values() if isinstance(state, Mapping) else state:
            yield from tensors(value)


def _is_tested() -> bool:
    return ".".join(torch.__version__.split(".")[:2]) in TESTED


def _finds_compiler() -> bool:
    """Whether PyTorch's C++ compiler seems to be installed. Asking PyTorch itself would take seconds."""
    command = shlex.split(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    return bool(command) and shutil.which(command[0]) is not None


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise expected("Option `agent.execution`", "plain or captured without the package triton", "compiled")
    try:
        for module in PRIVATE:
            importlib.import_module(module)
    except ImportError as error:
        where = f"plain with PyTorch {torch.__version__}, since compiled was tested with {', '.join(TESTED)}"
        raise expected("Option `agent.execution`", where, "compiled") from error
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise expected("Option `agent.execution`", "plain without a C++ compiler such as g++", "compiled") from error
