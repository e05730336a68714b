"""What learners save and load: their parts, and the random numbers to come."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Stateful:
    """A learner that goes on exactly from its saved state; what it does not say itself is here."""

    generator: torch.Generator

    def _parts(self) -> dict[str, Any]:
        """name -> what has a state of its own."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))  # an optimiser keeps the tensors it is given
        _continue(self.generator, state["generator"].cpu())


def _continue(generator: torch.Generator, state: Tensor) -> None:
    """Go on from a generator's state; from one of another kind of device, with other numbers that follow from it."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
