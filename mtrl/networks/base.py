"""Adds a task axis to networks that are written for one task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mtrl.core.config import Options, option
from mtrl.core.errors import expected
from mtrl.core.subset import SomeTasks, TaskSubset
from mtrl.core.types import Tensors
from mtrl.execution.processes import Processes

Factory = Callable[[Tensor], nn.Module]
"""Builds the network of one task from that task's code (C,)."""


@dataclass
class NetworkConfig(Options):
    """Options of every architecture for vectors."""

    option_group: ClassVar[str] = "network"

    width: int = option(400, "a positive integer")
    """The number of units in each hidden layer."""
    depth: int = option(3, "in 1..1000")
    """The number of hidden layers."""
    layer_norm: bool = False
    """Whether layer normalisation follows each hidden linear layer."""
    activation: str = option("relu", ("relu", "tanh", "silu", "elu"))
    """The activation after each hidden layer: relu, tanh, silu or elu."""

    def for_goals(self) -> Self:
        """The options to use where tasks are goals, whose codes are coordinates instead of one-hot vectors."""
        return self


def _tensors(module: nn.Module, prefix: str = "", inherited: bool = False) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield (name, tensor, whether each task owns one) for all parameters and buffers."""
    is_owned = inherited or getattr(module, "task_owned", False)
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield prefix + name, tensor, is_owned
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}{name}.", is_owned)


def _check_layers(module: nn.Module) -> None:
    """Refuse PyTorch's own layers, which fail or compute something else when their parameters have a task axis."""
    if not isinstance(module, nn.Module):
        raise expected("A network", "a torch.nn.Module", module)
    for name, part in module.named_modules():
        container = isinstance(part, nn.ParameterList | nn.ParameterDict)
        plain = type(part).__module__.startswith("torch.nn.") and not container
        if plain and next(part.parameters(recurse=False), None) is not None:
            what = "a layer that accepts a task axis, as those of mtrl.networks.layers and mtrl.networks.convolution do"
            raise expected(f"Part `{name}` of a network", what, f"torch.nn.{type(part).__name__}")


def _owned_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor, is_owned in _tensors(module) if is_owned}


def _code_names(module: nn.Module) -> set[str]:
    """The names of the buffers that hold the task's code."""
    return {f"{name}.value" for name, part in module.named_modules() if getattr(part, "task_code", False)}


def _code_readers(module: nn.Module) -> list[str]:
    """The names of the layers that are applied to the task's code."""
    return [name for name, part in module.named_modules() if getattr(part, "reads_code", False)]


def _slot(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Turn a module's tensor into a plain attribute, and return its place: (submodule, name).

    Setting such attributes before a call does what `torch.func.functional_call` does, at a tenth of its cost.
    """
    path, _, attribute = name.rpartition(".")
    holder = module.get_submodule(path)
    delattr(holder, attribute)
    return holder, attribute


def _stack(tensors: list[list[Tensor]], ensemble: int | None) -> Tensor:
    """Stack tensors[task][member] to (T, *shape), or to (T, E, *shape) stored member by member.

    In this order, a batched product over (E, T) reads owned weights without copying them.
    """
    if ensemble is None:
        return torch.stack([members[0] for members in tensors])
    return torch.stack([torch.stack(task) for task in zip(*tensors, strict=True)]).transpose(0, 1)


class _Rounded(torch.autograd.Function):
    """Rounds a tensor to a lower precision, but not its gradient. A task axis of stride 0 is kept."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = tensor.dtype
        same = tensor.ndim > 0 and len(tensor) > 1 and tensor.stride(0) == 0
        return tensor[:1].to(dtype).expand_as(tensor) if same else tensor.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype), None


class TaskNetwork(nn.Module):
    """T networks of one architecture, some of whose tensors are shared and some owned by each task.

    shared: name -> (*shape), trained. own: name -> (T, *shape), trained, initialised separately for each task.
    own_buffers: name -> (T, *shape), never trained. With an ensemble of E members (twin critics), an axis E
    precedes *shape: shared (E, *shape), own (T, E, *shape).

    forward: inputs (T, B, ..) -> (T, B, ..), or (E, T, B, ..) with an ensemble.
    """

    def __init__(
        self,
        factory: Factory,
        num_tasks: int,
        ensemble: int | None = None,
        codes: Tensor | None = None,
        *,
        shared_input: bool = False,
    ) -> None:
        """factory: builds the network of one task from its code (C,). ensemble: E, if there are several members.
        codes (T, C): one-hot by default. shared_input: whether all tasks see the same inputs, given once as (1, B, ..);
        the task axis then begins at the first owned layer.

        Raises:
            UserError: `factory` is not a function that returns a module, a layer does not accept a task axis, or a
                shared module has a buffer.
        """
        super().__init__()
        codes = torch.eye(num_tasks) if codes is None else codes
        if isinstance(factory, nn.Module) or not callable(factory):
            raise expected("What a network's build returns", "a function of a task's code that gives a module", factory)
        self.num_tasks, self.ensemble, self.shared_input = num_tasks, ensemble, shared_input
        first = [factory(codes[0]) for _ in range(ensemble or 1)]
        _check_layers(first[0])
        tables = [[{n: t for n, t, _ in _tensors(m)} for m in first]]
        tables += [[_owned_tensors(factory(code)) for _ in range(ensemble or 1)] for code in codes[1:]]
        self.shared, self.own = nn.ParameterDict(), nn.ParameterDict()
        self.owner: dict[str, int] = {}  # empty, as all tensors in `own` have a task axis
        self._own_buffers = nn.Module()
        names: dict[str, str] = {}
        self._axes: dict[str, int] = {}
        for name, tensor, is_owned in _tensors(first[0]):
            key = name.replace(".", "/")
            names[key] = name
            self._axes[key] = tensor.ndim + (ensemble is not None)
            sources = tables if is_owned else tables[:1]
            stacked = _stack([[t[name].detach() for t in members] for members in sources], ensemble)
            if not isinstance(tensor, nn.Parameter):
                if not is_owned:
                    raise expected(f"Buffer `{name}` of a network", "part of an owned module", "a shared one")
                self._own_buffers.register_buffer(key, stacked)
            elif is_owned:
                self.own[key] = nn.Parameter(stacked, tensor.requires_grad)
            else:
                first_task = stacked[0].clone(memory_format=torch.contiguous_format)
                self.shared[key] = nn.Parameter(first_task, tensor.requires_grad)
        self._codes = {name.replace(".", "/") for name in _code_names(first[0])}
        self._code_columns = [f"{name}.weight".replace(".", "/") for name in _code_readers(first[0])]
        # In a list, so that the template registers no parameters: it is called with this module's tensors.
        self._template = [first[0]]
        self._slots = {key: _slot(first[0], name) for key, name in names.items()}
        self.computed_in: torch.dtype | None = None
        """The type, such as bfloat16, to which each call rounds tensors and inputs; None for no rounding. Parameters,
        outputs and gradients keep their own type."""

    @property
    def architecture(self) -> str:
        """The class name of one task's network."""
        return type(self._template[0]).__name__

    @property
    def holders(self) -> dict[str, str]:
        """name of a tensor -> the Python module that defines the class of the layer that holds it"""
        return {key.replace("/", "."): type(part).__module__ for key, (part, _) in self._slots.items()}

    @property
    def own_buffers(self) -> dict[str, Tensor]:
        return dict(self._own_buffers.named_buffers())

    @property
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """(shared, own, own_buffers), as a `TaskLoss` takes them."""
        return dict(self.shared.items()), dict(self.own.items()), self.own_buffers

    def per_task_leaves(self) -> dict[str, Tensor]:
        """The shared tensors as leaves, with a task axis of stride 0 in front, so that each task has a gradient."""
        return _leaves(self.shared, self.num_tasks)

    def call(self, shared: Tensors, own: Tensors, own_buffers: Tensors, *inputs: Tensor) -> Tensor:
        """The forward pass with the given tensors. Shared ones may have a task axis in front."""
        for tensors in (shared, own, own_buffers):
            for key, tensor in tensors.items():
                module, name = self._slots[key]
                module.__dict__[name] = self._arrange(key, self._rounded(tensor))
        if self.ensemble is not None:
            inputs = tuple(x.unsqueeze(0) for x in inputs)
        output = self._template[0](*(self._rounded(x) for x in inputs))
        for module, name in self._slots.values():  # so that no graph outlives its update
            module.__dict__[name] = None
        return output if self.computed_in is None else output.to(inputs[0].dtype)

    def entries_of_tasks(self) -> list[tuple[nn.Parameter, int]]:
        """(parameter, axis) for all parameters with an entry for each task along an axis, if codes are one-hot.

        These are the parameters in `own`, and shared weights that multiply codes. They alone tell the tasks' networks
        apart.

        Raises:
            UserError: tasks also differ in other ways: by fixed buffers, by layers that use the code and are not
                declared (`layers.reads_code`), or by such layers that each task owns.
        """
        what, columns = "A network whose tasks take over policies of others", [*self._code_columns]
        if fixed := sorted(set(self.own_buffers) - self._codes):
            raise expected(what, "one without fixed buffers that differ between tasks", fixed[0].replace("/", "."))
        if len(columns) < len(self._codes) or not set(columns) <= set(self.shared):
            raise expected(what, "one whose codes go only through shared layers that reads_code() declares", "another")
        return [*((parameter, 0) for parameter in self.own.values()), *((self.shared[key], -1) for key in columns)]

    @property
    def known_by_code_alone(self) -> bool:
        """Whether tasks differ only in their codes, so that the code of a new task is enough to act on it."""
        return len(self.own) == 0 and self._codes == set(self.own_buffers) != set()

    def coded(self, code: Tensor) -> dict[str, Tensor]:
        """The `own_buffers` of tasks with these codes (T, C), if `known_by_code_alone`."""
        return dict.fromkeys(self._codes, code)

    def _rounded(self, tensor: Tensor) -> Tensor:
        if self.computed_in is None or not tensor.is_floating_point():
            return tensor
        return _Rounded.apply(tensor, self.computed_in)  # type: ignore[no-any-return]

    def _arrange(self, key: str, tensor: Tensor) -> Tensor:
        """A stored tensor with the leading axes its layer sees: (), (T,), (E, 1) or (E, T)."""
        if self.ensemble is None:
            return tensor
        return tensor.transpose(0, 1) if tensor.ndim > self._axes[key] else tensor.unsqueeze(1)

    def divide(self, processes: Processes) -> None:
        """Let batch norms compute statistics over the whole batch, of which each process has a share."""
        for part in self._template[0].modules():
            if hasattr(part, "processes"):
                setattr(part, "processes", processes)  # noqa: B010  (a module's attributes are typed as tensors)

    def train(self, mode: bool = True) -> TaskNetwork:
        """In training, batch norms use the batch's statistics, and update their running statistics in place. These are
        among the `own_buffers` of the call."""
        self._template[0].train(mode)
        return super().train(mode)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*self.tensors, *inputs)

    def at(self, subset: TaskSubset) -> TaskNetwork | _NetworkOfSome:
        """This network restricted to the tasks of a batch; the network itself if these are all tasks."""
        return _NetworkOfSome(self, subset) if isinstance(subset, SomeTasks) else self


def _leaves(shared: nn.ParameterDict, num_tasks: int) -> dict[str, Tensor]:
    return {n: p.detach().expand(num_tasks, *p.shape).requires_grad_(p.requires_grad) for n, p in shared.items()}


class _NetworkOfSome:
    """A network of T tasks restricted to the S tasks of a batch; implements `TaskParameters`.

    Each task keeps the tensors that it owns, except that the subset's code replaces the task's. `own` holds the
    parameters of all T tasks, into which gradients of `tensors` flow back.
    """

    def __init__(self, network: TaskNetwork, subset: SomeTasks) -> None:
        self._network, self._subset = network, subset
        self.num_tasks, self.ensemble, self.shared_input = len(subset.task), network.ensemble, network.shared_input
        self.shared, self.own, self.owner = network.shared, network.own, network.owner

    def at(self, subset: TaskSubset) -> TaskNetwork | _NetworkOfSome:
        return self._network.at(subset)

    @property
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """(shared, own, own_buffers) of the batch's tasks, as a `TaskLoss` takes them."""
        network, codes, gather = self._network, self._network._codes, self._subset.gather
        own = {name: gather(tensor) for name, tensor in network.own.items()}
        kept = {name: gather(tensor) for name, tensor in network.own_buffers.items() if name not in codes}
        return dict(network.shared.items()), own, kept | {name: self._code for name in codes}

    @property
    def _code(self) -> Tensor:
        code = self._subset.code
        return code if self.ensemble is None else code.unsqueeze(1).expand(-1, self.ensemble, -1)

    def per_task_leaves(self) -> dict[str, Tensor]:
        return _leaves(self.shared, self.num_tasks)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._network.parameters()

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._network.call(*self.tensors, *inputs)
