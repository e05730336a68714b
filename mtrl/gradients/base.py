"""The interfaces of gradient methods, and what they see of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mtrl.core.config import Options, check, option
from mtrl.core.errors import expected
from mtrl.core.types import Metrics
from mtrl.gradients.algebra import combine

if TYPE_CHECKING:
    from mtrl.gradients.look_ahead import LookAhead

C = TypeVar("C")


@dataclass
class WeightingConfig(Options):
    """The options that `Methods` reads from a weighting's configuration.

    If that does not derive from this class, `Methods` uses the defaults here.
    """

    option_group: ClassVar[str] = "weighting"

    actor_weights: str = option("auto", ("auto", "own", "critic", "equal"))
    """How an actor's losses, which may be negative, are weighted. own: by weights computed from them; critic: by the
    critic's weights in the same update; equal: by equal weights; auto: critic for a weighting that needs positive
    losses, own for others."""

    def primary_tasks(self) -> Sequence[str]:
        """Names or indexes of the primary tasks; if empty, all tasks are primary."""
        return ()


@dataclass
class SurgeryConfig(Options):
    """The options that `Methods` reads from a surgery's configuration.

    If that does not derive from this class, `Methods` uses the defaults here.
    """

    option_group: ClassVar[str] = "surgery"
    requires_primary: ClassVar[bool] = False
    """Whether the method needs a choice of primary tasks."""
    primary_limit: ClassVar[int | None] = None
    """The most primary tasks that the method allows; None for any number."""

    def primary_tasks(self) -> Sequence[str]:
        """Names or indexes of the primary tasks; if empty, all tasks are primary."""
        return ()

    def each_member(self) -> bool:
        """Whether surgery acts on each member of an ensemble separately."""
        return False


@dataclass
class GramianConfig(SurgeryConfig):
    """Options of a surgery that needs only the inner products of the tasks' gradients."""

    per_critic: bool = False
    """Whether surgery uses each critic's own inner products instead of their sum over the critics."""

    def each_member(self) -> bool:
        return self.per_critic


@dataclass
class DiagnosticConfig(Options):
    """The options that `Methods` reads from a diagnostic's configuration.

    If that does not derive from this class, `Methods` uses the defaults here.
    """

    affinity: ClassVar[str | None] = None
    """The name of its metric (T, T), if any, that says how much a step for the row's task helps the column's task."""


def declared(config: Any, kind: type[C]) -> C:
    """The configuration if it derives from `kind`, otherwise the defaults of `kind`."""
    return config if isinstance(config, kind) else kind()


@dataclass
class Context:
    """What a method sees of one update: vectors of all T tasks. Nothing in it is connected to an autograd graph.

    If a batch holds only S of the tasks, the losses of the others are zero and their weights have no effect.
    """

    losses: Tensor
    """(T,), not weighted."""
    step: Tensor
    """() int64: the number of updates before this one."""
    primary: Tensor
    """(T,) bool: the primary tasks, whose results count; all by default."""
    present: Tensor
    """(T,) bool: the tasks of this batch."""
    gramian: Tensor | None = None
    """(S, S), if needed: inner products of the present tasks' unweighted gradients of the shared parameters."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Further vectors from the learner, such as log_alpha (T,)."""
    look_ahead: LookAhead | None = None
    """If needed: computes the losses after a trial step, and their derivatives with respect to the weights."""
    generator: torch.Generator | None = None
    """The source of randomness; PyTorch's own if None."""

    def softmax(self, scores: Tensor) -> Tensor:
        """scores (T,) -> (T,): softmax over the tasks present, times their number; 0 for the others."""
        return self.present.sum() * scores.masked_fill(~self.present, -torch.inf).softmax(0)


class Weighting(nn.Module):
    """Scales the losses. All of its state is in parameters and buffers, so that `state_dict` contains it."""

    needs_gramian: ClassVar[bool] = False
    needs_look_ahead: ClassVar[bool] = False
    looks_at_second_batch: bool = True
    """Whether the losses after a trial step are computed on a different batch from the step's."""
    needs_losses_after: ClassVar[bool] = False
    """Whether `after_step` has to be called, which costs one more forward pass."""
    requires_positive_losses: ClassVar[bool] = False
    """Whether it is undefined for negative losses, which an actor may have. `Methods` never uses it on an actor's."""
    on_host: bool = False
    """Whether it waits for the device or uses the state of Python objects, so that a CUDA graph cannot contain it."""
    needs_extras: ClassVar[tuple[str, ...]] = ()
    """The names of the `Context.extras` that it reads. Only some learners give them."""
    borrowed: ClassVar[bool] = False
    """Whether its weights are those of another optimiser's step in the same update."""
    takes_some_tasks: ClassVar[bool] = False
    """Whether it works where each batch holds only some of the tasks (see `Context.present`)."""

    def update(self, context: Context) -> None:
        """Learn from this update's losses and gradients. Called before `weights`."""

    def weights(self, context: Context) -> Tensor:
        """The factor of each task's loss, (T,)."""
        raise NotImplementedError

    def after_step(self, before: Tensor, after: Tensor) -> None:
        """Learn from the losses (T,) of the same batch before and after the optimiser's step."""


def weights_of(weighting: Weighting, context: Context) -> Tensor:
    """The weights (T,) of a method, which may come from another package, as a new tensor of the losses' type.

    Raises:
        UserError: the method returns something else.
    """
    found = weighting.weights(context)
    if not isinstance(found, Tensor) or found.shape != context.losses.shape:
        wanted = f"a tensor {tuple(context.losses.shape)}, a weight for each task"
        shape = f"one {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise expected(f"What `weights` of {type(weighting).__name__} returns", wanted, shape)
    return found.detach().to(context.losses.dtype, copy=True)


class Surgery(nn.Module):
    """Combines the tasks' gradients of each shared parameter into one. This base class sums them as they are.

    A method overrides one of three: `coefficients` if inner products determine the result (and `choose` if it then
    chooses among several combinations), `combine` if it needs the gradients themselves, or `penalty` if it adds a loss
    on the gradients. Every method is scaled so that identical gradients give the plain update, unless its documentation
    says otherwise. S is the number of tasks in the batch.
    """

    needs_gradients: ClassVar[bool] = True
    """Whether it needs each task's own gradient. If not, one joint backward pass is enough."""
    has_penalty: ClassVar[bool] = False
    """Whether it has a `penalty`, which costs a second backward pass."""
    needs_look_ahead: ClassVar[bool] = False
    """Whether `coefficients` returns several combinations, (C, S), of which `choose` takes one after trial steps."""
    on_host: bool = False
    """As in `Weighting`."""
    takes_some_tasks: bool = True
    """As in `Weighting`."""

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        """The random numbers that one call of `coefficients` uses, or None."""
        return None

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        """The coefficients c (S,) of the shared gradient Σ_i c_i g_i, where g_i are the weighted gradients.

        They do not yet contain the factor of the losses' reduction: 1 / S for their mean, 1 for their sum.

        gramian (S, S), float64: inner products of the weighted gradients; all zero if any of them is not finite.
        primary (S,) bool: the primary tasks. noise: what `noise` returned.
        """
        return torch.ones_like(gramian.diagonal())

    def choose(self, candidates: Tensor, weights: Tensor, context: Context) -> tuple[Tensor, Metrics]:
        """Choose one of the candidates (C, S), coefficients of the unweighted gradients. Returns it (S,), and metrics.

        weights (S,): the losses' weights, which the candidates already contain. Neither contains the factor of the
            losses' reduction.
        """
        raise NotImplementedError

    def combine(
        self, gradients: Tensor, coefficients: Tensor, weights: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The gradient (*shape) of one parameter, from the tasks' unweighted gradients (S, *shape).

        coefficients: (S,), or (E, S) if each ensemble member has its own (`SurgeryConfig.each_member`); they contain
        the weights. weights: (S,). Both contain the factor of the losses' reduction.
        """
        return combine(gradients, coefficients)

    def penalty(self, gramian: Tensor) -> Tensor:
        """A loss () from the inner products (S, S) of the unweighted shared gradients, which are part of a graph."""
        raise NotImplementedError


class Diagnostic(nn.Module):
    """Measures the updates of one network and changes none of them. Each context that it sees has a Gramian and a
    look-ahead. Its `state_dict` contains all of its state."""

    on_host: bool = False
    """As in `Weighting`."""

    def before_step(self, context: Context) -> None:
        """Look at the parameters before they change."""

    def after_step(self, context: Context) -> Metrics:
        """The metrics of this update. The parameters have changed; the context describes the state before the step."""
        raise NotImplementedError


def primary_tasks(option: str, chosen: Sequence[str | int], tasks: Sequence[str], num_tasks: int) -> Tensor:
    """The mask (T,) of the tasks chosen by name or index; all tasks if none is chosen.

    option: the option's name in messages. tasks: the names of all tasks; if it is empty, only indexes can be chosen.

    Raises:
        UserError: no task has such a name or index, or a task is chosen twice.
    """
    mask = torch.zeros(num_tasks, dtype=torch.bool)
    for choice in map(str, chosen):
        index = list(tasks).index(choice) if choice in tasks else int(choice) if choice.isdecimal() else num_tasks
        known = f" ({', '.join(tasks)})" if tasks else ""
        check(index < num_tasks, option, f"tasks{known} or indexes below {num_tasks}", choice)
        check(not mask[index], option, "tasks that are all different", choice)
        mask[index] = True
    return mask if chosen else ~mask
