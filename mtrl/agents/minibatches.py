"""Functions of tensors that may be compiled: optimiser steps on minibatches of a rollout, and acting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mtrl.core.types import Metrics
from mtrl.execution.runners import Runner, Update

Build = Callable[[Update], Runner]


class FixedCalls:
    """Calls a function that `build` may compile, once for each combination of its arguments' shapes.

    A compiled function reads its arguments at the addresses that they had when it was compiled. So every call copies
    its arguments there first.
    """

    def __init__(self, function: Callable[..., Metrics], build: Build) -> None:
        self._function, self._build = function, build
        self._made: dict[tuple[Any, ...], tuple[list[Tensor], Runner]] = {}

    def prepare(self, *arguments: Tensor) -> None:
        """Compile what is called with such arguments, if that is to be done now."""
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
    """Optimiser steps of one network on parts of its data. A call names the places (B,) of a minibatch among R N."""

    def __init__(self, step: Callable[[list[Any]], Metrics], build: Build) -> None:
        """step: one optimiser step on one minibatch, or on two where `ActorCritic.needs_second_batch`."""
        super().__init__(lambda *places: step([self._at(place) for place in places]), build)
        self._data: Any = None

    def load(self, data: Any) -> None:
        """data: a named tuple of tensors (T, R N, ..), of the same shapes each time."""
        if self._data is None:
            self._data = type(data)(*(field.clone() for field in data))
        else:
            for kept, new in zip(self._data, data, strict=True):
                kept.copy_(new)

    @property
    def size(self) -> int:
        """R N"""
        return self._data[0].shape[1]

    def _at(self, place: Tensor) -> Any:
        return type(self._data)(*(field.index_select(1, place) for field in self._data))
