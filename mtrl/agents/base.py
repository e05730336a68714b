"""The base classes of learners: what they accept, and how they are saved and loaded."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mtrl.core.config import Options, option
from mtrl.core.specs import Spec
from mtrl.gradients import Methods
from mtrl.networks import TaskNetwork


@dataclass
class AgentConfig(Options):
    """Options of every learner."""

    option_group: ClassVar[str] = "agent"
    specs: ClassVar[tuple[type[Spec], ...]]
    """The kinds of data that the learner works with."""
    trainings: ClassVar[tuple[str, ...]]
    """The training loops that the learner works with."""
    divides_batches: ClassVar[bool] = False
    """Whether several processes can train together, each on its share of every batch."""

    kind: str = ""

    def for_acting(self) -> Self:
        """The options to use where the policy only acts, possibly on another device than in training."""
        return self


class Agent:
    """The base class of learners. After loading a saved state, a learner continues exactly from there."""

    acting: ClassVar[tuple[str, ...]] = ()
    """Names of the parts that deterministic acting needs; () for the whole state."""

    config: Any
    device: torch.device
    generator: torch.Generator
    announce: Callable[[str], None] = staticmethod(lambda _: None)
    """Called with one line for the user, such as how updates run. A run shows it with its progress bar."""

    @property
    def needs_second_batch(self) -> bool:
        """Whether `update` needs a second batch of the same tasks, for a weighting that looks ahead."""
        return False

    def _parts(self) -> dict[str, Any]:
        """name -> a part of the learner that has `state_dict` and `load_state_dict`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return state | {"generator": self.generator.get_state()}

    def reseed(self, seed: int) -> None:
        """Seed the generator anew, so that the following random numbers are different ones."""
        self.generator.manual_seed(seed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))  # an optimiser keeps the tensors it is given
        continue_generator(self.generator, state["generator"].cpu())

    def policy_state(self) -> dict[str, Any]:
        """The state of the parts named in `acting`, which `act` needs without exploration."""
        if not self.acting:
            return self.state_dict()
        return {name: part.state_dict() for name, part in self._parts().items() if name in self.acting}

    def load_policy_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `policy_state`. The learner can then act, but not continue its training."""
        if not self.acting:
            self.load_state_dict(state)
        for name in self.acting:
            if name in self._parts():
                self._parts()[name].load_state_dict(state[name])


@dataclass
class OneNetworkConfig(AgentConfig):
    batch_size: int = option(32, "a positive integer")
    """B: samples per task and update."""
    max_grad_norm: float | None = option(None, "positive")
    """Largest norm of the final gradient, which is clipped to it; no limit if not given."""
    reduction: str = option("mean", ("mean", "sum"))
    """How the weighted task losses are combined: mean or sum."""


class OneNetwork(Agent):
    """A learner with one network for T tasks."""

    acting: ClassVar[tuple[str, ...]] = ("network",)

    def __init__(
        self,
        config: Any,
        network: TaskNetwork,
        make_optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        *,
        methods: Methods,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """make_optimizer: parameters -> their optimiser; seed: that of the learner's random numbers.

        Raises:
            UserError: the methods do not fit the network or each other.
        """
        self.config, self.device = config, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.network = network.to(self.device)
        self.optimizer = methods.optimizer(
            self.network,
            make_optimizer(self.network.parameters()),
            reduction=config.reduction,
            max_grad_norm=config.max_grad_norm,
            generator=self.generator,
        ).to(self.device)
        self.network.divide(self.optimizer.processes)

    @property
    def needs_second_batch(self) -> bool:
        return self.optimizer.needs_second_batch

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "method": self.optimizer, "optimizer": self.optimizer.optimizer}


def continue_generator(generator: torch.Generator, state: Tensor) -> None:
    """Load a generator's saved state. A state from another kind of device only seeds the generator."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


def branch(generator: torch.Generator, into: torch.Generator | None = None) -> torch.Generator:
    """Seed `into`, or a new generator, by the state of `generator`, which does not change. Returns the seeded one."""
    seed = zlib.crc32(generator.get_state().numpy().tobytes())
    return (torch.Generator(generator.device) if into is None else into).manual_seed(seed)
