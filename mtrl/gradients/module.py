"""Any weighting and surgery on the losses of any module: `ModuleOptimizer`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtrl.core.errors import UserError, expected
from mtrl.core.registry import Registry
from mtrl.core.subset import TaskSubset
from mtrl.core.types import Metrics, Tensors
from mtrl.gradients.look_ahead import with_same_noise
from mtrl.gradients.methods import Methods
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

Losses = Tensor | Sequence[Tensor]
"""T scalars, or (T,)."""


class ModuleOptimizer(nn.Module):
    """Weights T losses of your own module, applies surgery to the shared gradients and takes one optimiser step.

    It is a `MultiTaskOptimizer` for modules without a task axis. A parameter that affects only one task's loss is owned
    by that task and gets the weighted gradient of that loss, divided by T with `reduction="mean"`; every other
    parameter is shared and takes part in surgery. The property `owner` shows what was found. If a method needs each
    task's gradient, the shared parameters take one backward pass for each loss.

        optimizer = ModuleOptimizer(model, torch.optim.Adam(model.parameters()), num_tasks=2, surgery="pcgrad")
        metrics = optimizer.step([first_loss, second_loss])  # in place of zero_grad, backward and step

    `state_dict` holds the state of the methods. Save those of the module and its optimiser separately.

    Args:
        module: everything that the losses depend on; an `nn.ModuleList` joins several modules.
        optimizer: the optimiser of the module's parameters.
        num_tasks: T.
        surgery, weighting: a name, or a configuration with options: ``SURGERIES.config_class("cagrad")(c=0.4)``.
        owned: what each task owns, by names of parameters or of parts of the module: {"heads.0": 0, "heads.1": 1}. By
            default, it is found at the first step from what each loss depends on.
        reduction: "mean" or "sum" of the weighted losses.
        max_grad_norm: the norm to which `step` clips the gradient; no clipping if not given.
        generator: the source of the methods' randomness; PyTorch's own if not given, or with a `process_group` a new
            one, whose state is not saved.
        process_group: the processes that learn together, in place of `DistributedDataParallel`.

    Raises:
        UserError: there is no such method or reduction, the methods do not fit together, or `owned` has an unknown
            name or task.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        num_tasks: int,
        *,
        surgery: str | Any = "none",
        weighting: str | Any = "equal",
        owned: Mapping[str, int] | None = None,
        reduction: str = "mean",
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self._tasks = _ModuleTasks(module, num_tasks)
        self._known = owned is not None
        self._tasks.divide({} if owned is None else self._tasks.owners(owned))
        chosen = _options_of(WEIGHTINGS, weighting), _options_of(SURGERIES, surgery)
        options = {"reduction": reduction, "max_grad_norm": max_grad_norm, "generator": generator}
        methods = Methods(*chosen, process_group=process_group)
        self.methods = methods.optimizer(self._tasks, optimizer, **options)
        self.methods.to(next(module.parameters()).device)

    @property
    def owner(self) -> dict[str, int]:
        """name -> task, of the parameters that one task owns; all others are shared."""
        return self._tasks.owner

    def step(self, losses: Losses | Callable[[], Losses], second: Callable[[], Losses] | None = None) -> Metrics:
        """One update of the module. Returns tensors: loss (T,), weight (T,) and, with surgery, cosine (T, T) and more.

        Args:
            losses: a list of T scalars, or a function that computes them with the module. Methods that compute the
                losses again (auto_lambda, famo, transference) need a function. With `owned`, one tensor (T,) is enough.
            second: a function that computes the losses of another batch, for auto_lambda.

        Raises:
            UserError: there are not T losses, one does not depend on the module's parameters, the losses should be a
                function or a list and are not, or a method compares gradients and no parameter is shared.
        """
        again = self.methods.computes_again
        if again and not callable(losses):
            raise expected("Losses", f"a function that computes them, for {again}", type(losses).__name__)
        other = None if second is None else _Batch(self._repeated(second), None)
        return self.methods.step(self._tasks.losses, self._batch(losses), other)

    def backward(self, losses: Losses) -> Metrics:
        """Write the gradients of `step`, before clipping, into `.grad`, in place of zero_grad and backward, and take no
        step. Returns the metrics of `step` without the gradient norm.

        Raises:
            UserError: as in `step`; and for methods that compute the losses again, which work with `step` only.
        """
        if again := self.methods.computes_again:
            raise expected(again.capitalize(), "used with `step`, since it computes the losses again", "`backward`")
        return self.methods.backward(self._tasks.losses, self._batch(losses))

    def _repeated(self, losses: Callable[[], Losses]) -> Callable[[], Losses]:
        """The function for later calls in the update that begins now."""
        device = next(self._tasks.parameters()).device
        return with_same_noise(losses, device) if self.methods.computes_again else losses

    def _batch(self, given: Losses | Callable[[], Losses]) -> _Batch:
        again = self._repeated(given) if callable(given) else None
        losses = given() if callable(given) else given
        _check(losses, self._tasks.num_tasks)
        if not self._known:
            self._tasks.divide(self._tasks.users(losses))
            self.methods.check_shared()
            self._known = True
        return _Batch(again, losses)


def _check(losses: Any, num_tasks: int) -> None:
    several = isinstance(losses, Collection) and not isinstance(losses, Mapping) and getattr(losses, "ndim", 1) > 0
    found = [_form(loss) for loss in losses] if several else [f"one {_form(losses)}"]
    if found != ["tensor ()"] * num_tasks:
        raise _unfit(num_tasks, ", ".join(found))


def _form(loss: Any) -> str:
    """What a loss is, in a few words; "tensor ()" for one that can be used."""
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    return f"{'' if loss.requires_grad else 'detached '}tensor {tuple(loss.shape)}"


def _unfit(num_tasks: int, found: str) -> UserError:
    return expected("Losses", f"a list of {num_tasks} scalar tensors that depend on the module's parameters", found)


def _options_of(registry: Registry, chosen: Any) -> Any:
    """A method's options: the defaults for a name; `chosen` itself if it already is a configuration."""
    options = registry.config_class(chosen)() if isinstance(chosen, str) else chosen
    if getattr(options, "kind", None) not in registry.kinds:
        raise expected(f"Argument `{registry.group}`", "a method's name, or a configuration by config_class", chosen)
    return options


class _Batch:
    """How to compute the losses, and the losses already computed, which `take` returns once."""

    def __init__(self, function: Callable[[], Losses] | None, losses: Losses | None) -> None:
        self.function, self._losses = function, losses

    def take(self) -> Losses | None:
        losses, self._losses = self._losses, None
        return losses


class _Caller(nn.Module):
    """Calls a function. `functional_call` on this module replaces the user's parameters while the function runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Losses]) -> Losses:
        return function()


class _ModuleTasks:
    """A module as the optimiser sees it (`TaskParameters`): all tasks share one input, and owned parameters have no
    task axis."""

    ensemble: int | None = None
    shared_input: bool = True

    def __init__(self, module: nn.Module, num_tasks: int) -> None:
        self._module, self._caller, self.num_tasks = module, _Caller(module), num_tasks
        self.shared: dict[str, nn.Parameter] = dict(module.named_parameters())
        self.own: dict[str, nn.Parameter] = {}
        self.owner: dict[str, int] = {}

    @property
    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        return self.shared, self.own, dict(self._module.named_buffers())

    def per_task_leaves(self) -> dict[str, Tensor]:
        return {name: p.detach().expand(self.num_tasks, *p.shape).requires_grad_() for name, p in self.shared.items()}

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._module.parameters()

    def at(self, subset: TaskSubset) -> _ModuleTasks:
        return self

    def losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: _Batch) -> tuple[Losses, Metrics]:
        """A `TaskLoss`: in the first call for a batch, the losses already computed; later, those with these tensors."""
        given = batch.take()
        if given is not None or batch.function is None:
            assert given is not None
            return given, {}
        tensors = {f"module.{name}": tensor for name, tensor in {**shared, **own, **own_buffers}.items()}
        return torch.func.functional_call(self._caller, tensors, (batch.function,)), {}

    def divide(self, owner: Mapping[str, int]) -> None:
        for name, task in owner.items():
            self.own[name], self.owner[name] = self.shared.pop(name), task

    def owners(self, named: Mapping[str, int]) -> dict[str, int]:
        """The owner of each parameter that a name refers to."""
        owner: dict[str, int] = {}
        for part, task in named.items():
            found = [name for name in self.shared if name == part or name.startswith(f"{part}.")]
            if not found:
                raise expected("Argument `owned`", "of names of the module's parameters or parts", part)
            if not 0 <= task < self.num_tasks:
                raise expected("Argument `owned`", f"of tasks below {self.num_tasks}", task)
            owner |= dict.fromkeys(found, task)
        return owner

    def users(self, losses: Losses) -> dict[str, int]:
        """The owner of each parameter that only one of several losses depends on."""
        if isinstance(losses, Tensor):
            what = "a list of scalars, from which owners of parameters are found, unless `owned` names them"
            raise expected("Losses", what, f"one tensor {tuple(losses.shape)}")
        if self.num_tasks == 1:
            return {}
        trained = {name: p for name, p in self.shared.items() if p.requires_grad}
        users: dict[str, list[int]] = {name: [] for name in trained}
        for task, loss in enumerate(losses):
            found = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
            if all(gradient is None for gradient in found):
                raise _unfit(self.num_tasks, f"number {task}, which depends on none")
            for name, gradient in zip(trained, found, strict=True):
                users[name] += [task] * (gradient is not None)
        return {name: tasks[0] for name, tasks in users.items() if len(tasks) == 1}
