"""What a gradient method is, and what it may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import check, check_choice
from mtrl.core.errors import expected
from mtrl.core.types import Metrics

if TYPE_CHECKING:
    from mtrl.gradients.look_ahead import LookAhead


@dataclass
class WeightingConfig:
    """What the weightings with options have in common."""

    actor_weights: str = "own"
    """Weights of the actor's losses, which have either sign: own, the critic's of the same update, or equal."""

    def __post_init__(self) -> None:
        check_choice("weighting.actor_weights", self.actor_weights, ("own", "critic", "equal"))


@dataclass
class PositiveWeightingConfig(WeightingConfig):
    """A weighting that is only defined for positive losses, so an actor cannot have its own."""

    actor_weights: str = "critic"

    def __post_init__(self) -> None:
        expectation = "critic or equal, as this weighting needs positive losses"
        check(self.actor_weights in ("critic", "equal"), "weighting.actor_weights", expectation, self.actor_weights)


@dataclass
class SurgeryConfig:
    """What all surgery has in common."""

    apply_to: str = "both"
    """Which networks' gradients: actor, critic or both."""
    per_critic: bool = False
    """Each member of the critics' ensemble by the inner products of its own gradients, instead of their sum."""

    def __post_init__(self) -> None:
        check_choice("surgery.apply_to", self.apply_to, ("both", "actor", "critic"))


@dataclass
class Context:
    """What a weighting sees of one update. Nothing in it is connected to a graph."""

    losses: Tensor
    """(T,)"""
    step: Tensor
    """() int64: updates done before this one."""
    primary: Tensor
    """(T,) bool: the tasks that count; all by default."""
    gramian: Tensor | None = None
    """(T, T): inner products of the unweighted gradients of the shared parameters, where asked for."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What the learner adds, such as log_alpha (T,)."""
    look_ahead: LookAhead | None = None
    """The losses after a trial step, and their derivatives by the weights, where asked for."""
    generator: torch.Generator | None = None
    """The source of randomness."""
    task: Tensor | None = None
    """(T,) int64: the tasks of this update, where they are only some; everything else here is theirs alone."""


class Weighting(nn.Module):
    """Scales the losses. All of its state is parameters and buffers, so that `state_dict` holds it."""

    needs_gramian: ClassVar[bool] = False
    needs_look_ahead: ClassVar[bool] = False
    needs_losses_after: ClassVar[bool] = False
    """Whether `after_step` is to be called, which costs one more forward pass."""
    requires_positive_losses: ClassVar[bool] = False
    on_host: bool = False
    """Whether it waits for the device or depends on more than tensors, so that no graph can hold it."""
    takes_some_tasks: ClassVar[bool] = False
    """Whether it can be used where an update sees only some of the tasks, and others the next time."""

    def update(self, context: Context) -> None:
        """Learn from this update's losses and gradients, before the weights are asked for."""

    def weights(self, context: Context) -> Tensor:
        """The factor of each task's loss, (T,)."""
        raise NotImplementedError

    def after_step(self, before: Tensor, after: Tensor) -> None:
        """Learn from the losses (T,) of the same batch before and after the optimiser's step."""


class Surgery(nn.Module):
    """Chooses a linear combination of the task gradients from their inner products alone.

    Coefficients of one are the plain update; every method is scaled so that identical gradients give it, unless its
    documentation says otherwise.
    """

    on_host: bool = False
    """As a weighting's."""

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        """The randomness that one call of `coefficients` uses, or None."""
        return None

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        """gramian (T, T) float64 -> (T,): the shared gradient becomes Σ_i c_i g_i, times the reduction's factor."""
        raise NotImplementedError


class JacobianSurgery(nn.Module):
    """Combines the task gradients of one tensor; for methods that their inner products do not determine."""

    def combine(self, gradients: Tensor, generator: torch.Generator | None) -> Tensor:
        """gradients (T, *shape) of the weighted losses -> (*shape), times the reduction's factor the update."""
        raise NotImplementedError


class Regularizer(nn.Module):
    """A penalty on the task gradients, differentiated through them: a second backward pass."""

    def penalty(self, gramian: Tensor) -> Tensor:
        """gramian (T, T) of the unweighted shared gradients, connected to their graph -> ()."""
        raise NotImplementedError


class Diagnostic(nn.Module):
    """Watches the updates of one network and changes none of them. It sees the tasks' gradients: the context has a
    Gramian, and a look-ahead with the gradients of the unweighted losses. All of its state is buffers.
    """

    on_host: bool = False
    """As a weighting's."""

    def before_step(self, context: Context) -> None:
        """Look at what is about to change."""

    def after_step(self, context: Context) -> Metrics:
        """The metrics of this update; the parameters have changed, the context has not."""
        raise NotImplementedError


def primary_tasks(option: str, chosen: Sequence[str | int], tasks: Sequence[str], num_tasks: int) -> Tensor:
    """The mask (T,) of the tasks chosen by name or index; all where none is chosen.

    Raises:
        UserError: a name or index that no task has.
    """
    mask = torch.zeros(num_tasks, dtype=torch.bool)
    for choice in map(str, chosen):
        index = list(tasks).index(choice) if choice in tasks else int(choice) if choice.isdecimal() else num_tasks
        if index >= num_tasks:
            known = f" ({', '.join(tasks)})" if tasks else ""
            raise expected(f"Option `{option}`", f"tasks{known} or indexes below {num_tasks}", choice)
        mask[index] = True
    return mask if chosen else ~mask
