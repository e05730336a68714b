"""Functions of tensors that may be compiled: optimiser steps on minibatches of a rollout, and acting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mtrl.core.types import Metrics
from mtrl.execution.runners import Runner, Update

Build = Callable[[Update], Runner]


class FixedCalls:
    """Calls a function. `build` may compile it, once for each combination of its arguments' shapes.

    A compiled function reads its arguments at the addresses that they had when it was compiled. So every call first
    copies its arguments there. The next call may overwrite the result.
    """

    def __init__(self, function: Callable[..., Metrics], build: Build) -> None:
        self._function, self._build = function, build
        self._made: dict[tuple[Any, ...], tuple[list[Tensor], Runner]] = {}

    def prepare(self, *arguments: Tensor) -> None:
        """Compile the function for arguments of these shapes, if compilation is due."""
        self._prepared(arguments)[1].prepare()

    def __call__(self, *arguments: Tensor) -> Metrics:
        kept, runner = self._prepared(arguments)
        for place, argument in zip(kept, arguments, strict=True):
            place.copy_(argument)
        return runner(1)

    def _prepared(self, arguments: Sequence[Tensor]) -> tuple[list[Tensor], Runner]:
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._made:
            kept = [argument.clone() for argument in arguments]
            self._made[shapes] = kept, self._build(lambda: self._function(*kept))
        return self._made[shapes]


class MinibatchSteps(FixedCalls):
    """Optimiser steps of one network on its data. A call takes the indexes (B,) of one minibatch, or of two."""

    def __init__(self, step: Callable[[list[Any]], Metrics], build: Build) -> None:
        """step: takes one step on a list of one minibatch, or of two if `ActorCritic.needs_second_batch` is true."""
        super().__init__(lambda *places: step([self._at(place) for place in places]), build)
        self._data: Any = None

    def load(self, data: Any) -> None:
        """data: a named tuple of tensors (T, R N, ..), for R steps of N environments; always of the same shapes."""
        if self._data is None:
            self._data = type(data)(*(field.clone() for field in data))
        else:
            for kept, new in zip(self._data, data, strict=True):
                kept.copy_(new)

    @property
    def size(self) -> int:
        """R N: samples per task."""
        return self._data[0].shape[1]

    def _at(self, place: Tensor) -> Any:
        return type(self._data)(*(field.index_select(1, place) for field in self._data))
