"""What learners save and load: their parts, and the random numbers to come."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch


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
        self.generator.set_state(state["generator"].cpu())
