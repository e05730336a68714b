"""How updates are run: op by op, compiled, or captured in a CUDA graph.

All three run one function without arguments that draws its batches, changes parameters, optimiser state and buffers in
place and reads nothing back to the host. Compiled and captured, Python runs only at first: what the function does may
depend on tensors alone, each at its own address.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mtrl.core.config import check, check_choice
from mtrl.core.errors import expected
from mtrl.core.types import Metrics

logger = logging.getLogger(__name__)

CHOICES = ("auto", "plain", "compiled", "captured")
PATIENCE = 5000
"""Updates after which auto compiles on a CPU: half a minute of compilation pays only in a run that is long."""
WARMUP = 3
"""Updates before a capture: libraries choose their kernels and optimisers make their state."""

Update = Callable[[], Metrics]
Runner = Callable[[int], Metrics]
"""Runs so many updates and returns the metrics of the last, in tensors that the next call may overwrite."""


def choose(wanted: str, device: torch.device, host_bound: str | None) -> str:
    """The execution that an option asks for.

    It stays auto where nothing is bound to the host, on a GPU or with a compiler: captured or, once a run has had
    `PATIENCE` updates, compiled, if that works; else it is plain.

    Args:
        host_bound: what part of the update waits for the device or depends on the host; None for nothing.

    Raises:
        UserError: it makes no sense on this device, or with that part.
    """
    check_choice("agent.execution", wanted, CHOICES)
    on_gpu = device.type == "cuda"
    if wanted == "auto":
        works = on_gpu or (device.type == "cpu" and _finds_compiler())
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
) -> Runner:
    """What runs `update` as `choose` chose.

    Args:
        state: all tensors that an update changes, in nested dictionaries and lists; new ones after the first update
            should start at zero, as Adam's moments do.
        generator: the source of all randomness of an update.
        per_launch: updates in one launch of a graph, where so many are asked for at once.
        done: how many updates there have been, those before a resumed run included.
        announce: told of what takes long.
    """

    def plain(count: int) -> Metrics:
        metrics: Metrics = {}
        for _ in range(count):
            metrics = update()
        return metrics

    if kind == "plain":
        return plain
    snapshot, on_gpu = Snapshot(state, generator), generator.device.type == "cuda"
    if kind == "captured" or (kind == "auto" and on_gpu):
        fast: Any = Captured(update, snapshot, generator, per_launch)
    else:
        from mtrl.core.compilation import Traced

        fast = Traced(update, snapshot, announce=announce)
    return Auto(plain, fast, done, 0 if on_gpu else PATIENCE) if kind == "auto" else fast


class Snapshot:
    """Puts back, bit for bit, what trial updates change: tensors where they are, and the generator."""

    def __init__(self, state: Callable[[], Mapping[str, Any]], generator: torch.Generator) -> None:
        self._state, self._generator = state, generator

    def __enter__(self) -> None:
        self._kept = {t.data_ptr(): (t, t.clone()) for t in tensors(self._state())}
        self._random = self._generator.get_state()

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for tensor in tensors(self._state()):
                if tensor.data_ptr() not in self._kept:
                    tensor.zero_()
            for tensor, value in self._kept.values():
                tensor.copy_(value)
        self._generator.set_state(self._random)
        self._kept.clear()


class Auto:
    """Op by op, and the fast way after so many updates; if that fails, op by op to the end, and the log says why."""

    def __init__(self, plain: Runner, fast: Any, done: Callable[[], int], patience: int) -> None:
        self._runner, self._fast, self._done, self._patience = plain, fast, done, patience

    def __call__(self, count: int) -> Metrics:
        if self._fast is not None and self._done() >= self._patience:
            fast, self._fast = self._fast, None
            try:
                fast.prepare()
                self._runner = fast
            except Exception as error:
                logger.warning("Updates run one operation at a time, since something faster failed: %s", error)
        return self._runner(count)


class Captured:
    """Updates as CUDA graphs: one of a single update, and one of `per_launch` where as many are asked for at once."""

    def __init__(self, update: Update, snapshot: Snapshot, generator: torch.Generator, per_launch: int) -> None:
        self._update, self._snapshot, self._generator = update, snapshot, generator
        self._per_launch = per_launch
        self._stream = torch.cuda.Stream(generator.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Metrics]] = {}

    def prepare(self, size: int = 1) -> None:
        """Capture so many updates, if that has not been done; the state is then what it was."""
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
        """Warm-up and capture are on one stream, so that the backward pass stays on it too."""
        graph, metrics = torch.cuda.CUDAGraph(), Metrics()
        with self._snapshot:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                for _ in range(WARMUP):
                    self._update()
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions of PyTorch register by themselves, and say so
                graph.register_generator_state(self._generator)
            with torch.cuda.graph(graph, stream=self._stream):
                for _ in range(size):
                    metrics = self._update()
        return graph, metrics


def tensors(state: Any) -> Iterator[Tensor]:
    """The tensors in nested dictionaries and sequences."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping | list | tuple):
        for value in state.values() if isinstance(state, Mapping) else state:
            yield from tensors(value)


def _finds_compiler() -> bool:
    """Whether PyTorch's C++ compiler seems to be there; asking PyTorch itself would take seconds."""
    command = shlex.split(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    return bool(command) and shutil.which(command[0]) is not None


def _check_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise expected("Option `agent.execution`", "plain without a C++ compiler such as g++", "compiled") from error
