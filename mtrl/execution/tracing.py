"""An update as one graph of array operations: traced once, and by default compiled by PyTorch's inductor.

Tracing runs the update once and records its array operations, after automatic differentiation: per-task gradients,
optimiser steps and surgery are all in one graph, and nothing is left to be differentiated. Random numbers from a
given generator are drawn outside the graph in the update's order, so that they are those of the plain update.

A compiled graph has one precision for all of its float32 products, that of the networks. A product that the update
computes in full precision (such as the Gramian) becomes an operation that sets its own precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from mtrl.core.errors import expected
from mtrl.core.types import Metrics
from mtrl.execution.precision import float32_products

Call = Callable[..., Sequence[Tensor]]


class _Draw(NamedTuple):
    """A random draw of the update, whose arguments are all constants."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _Drawing(TorchFunctionMode):
    """Keeps draws from a given generator out of the trace, which sees plain tensors, and records how to repeat them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[_Draw, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

        options = kwargs or {}
        if options.get("generator") is None:
            return func(*args, **options)
        if any(isinstance(value, Tensor) for value in (*args, *options.values())):
            found = f"compiled updates in which {func.__name__} does so"
            raise expected("Option `agent.execution`", "plain where random draws depend on data", found)
        with disable_proxy_modes_tracing():
            value = func(*args, **options)
        self.made.append((_Draw(func, args, options), value))
        return value


class Traced:
    """Runs an update as a graph, either compiled or operation by operation in the order of the plain update."""

    def __init__(
        self,
        update: Callable[[], Metrics],
        snapshot: Any,
        *,
        compiled: bool = True,
        announce: Callable[[str], None] = lambda _: None,
        products: str = "highest",
    ) -> None:
        """Store the update, which is traced by the first `prepare`.

        Args:
            snapshot: a context that undoes what the update changes.
            compiled: whether inductor compiles the graph.
            announce: called with a line for the user before something slow.
            products: the precision of the networks' float32 products, highest or high.
        """
        self._announce, self._products = announce, products
        self._update, self._snapshot, self._compiled = update, snapshot, compiled
        self._call: Call | None = None
        self._names: list[str] = []
        self._draws: list[_Draw] = []
        self._state: list[Tensor] = []

    def prepare(self) -> Call:
        """Trace and compile the update, unless that has been done. The state does not change."""
        if self._call is None:
            if self._compiled:
                self._announce("Updates are being compiled: about half a minute.")
            with self._snapshot:
                self._update()  # optimisers create their state in the first update
                self._call = self._trace()
        return self._call

    def __call__(self, count: int) -> Metrics:
        call = self.prepare()
        values: Sequence[Tensor] = ()
        with torch.no_grad(), float32_products(self._products):
            for _ in range(count):
                values = call(*self._inputs())
        return dict(zip(self._names, values, strict=True))

    def _inputs(self) -> list[Tensor]:
        return [draw.function(*draw.arguments, **draw.options) for draw in self._draws] + self._state

    def _trace(self) -> Call:
        from torch.fx.experimental.proxy_tensor import make_fx

        def listed() -> list[Tensor]:
            metrics = self._update()
            self._names = list(metrics)
            return list(metrics.values())

        table = _exact_products() if self._products != "highest" else {}
        table |= {overload: _adam for overload in _FUSED_ADAM} if self._compiled else {}
        with warnings.catch_warnings(action="ignore"):  # the compiler warns about its own parts
            with _Drawing() as drawing:
                graph = make_fx(listed, decomposition_table=table)()
            self._draws = [draw for draw, _ in drawing.made]
            self._state = _lift(graph, [value for _, value in drawing.made])
            if not self._compiled:
                return graph
            with torch.no_grad(), float32_products(self._products):
                return _compile(graph, self._inputs())


def _lift(module: fx.GraphModule, drawn: Sequence[Tensor]) -> list[Tensor]:
    """Turn random draws, then the other tensors that the graph holds, into its inputs. Returns those other tensors."""
    graph, held = module.graph, dict[str, list[fx.Node]]()
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(getattr(module, node.target), Tensor):
            held.setdefault(node.target, []).append(node)
    names = {id(getattr(module, name)): name for name in held}
    draws = [names.get(id(value), "") for value in drawn]  # "" for draws that nothing reads
    others = [name for name in held if name not in draws]
    with graph.inserting_before(next(iter(graph.nodes))):
        inputs = [graph.placeholder(f"draw_{k}") for k in range(len(draws))]
        inputs += [graph.placeholder(f"held{name}") for name in others]
    for name, replacement in zip([*draws, *others], inputs, strict=True):
        for node in held.get(name, []):
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if str(node.target).startswith("profiler."):
            graph.erase_node(node)
    module.recompile()
    return [getattr(module, name).detach() for name in others]


def _compile(graph: fx.GraphModule, inputs: list[Tensor]) -> Call:
    """The graph, compiled for inputs of these shapes, without mutations except copies at its end."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = make_fx(functionalize(graph), decomposition_table=select_decomp_table(), tracing_mode="fake")(*inputs)
    counters = _without_counters(pure)
    on_cpu = all(tensor.device.type == "cpu" for tensor in inputs)
    with config.patch(cpp_wrapper=on_cpu):  # one C++ function, during which other threads can run Python
        compiled: Any = compile_fx_inner(pure, inputs)

    def call(*values: Tensor) -> Sequence[Tensor]:
        found = compiled(list(values))
        for place, new in zip(counters, found[len(found) - len(counters) :], strict=True):
            values[place].copy_(new)
        return found[: len(found) - len(counters)]

    return call


def _without_counters(pure: fx.GraphModule) -> list[int]:
    """Let the graph return the scalars that it would change, such as an optimiser's step count, after its results.

    With PyTorch 2.13's compiler, a kernel that needs the new value of such a scalar may read it before it changes.
    Returns the indices of the inputs that hold these scalars.
    """
    graph, places, new = pure.graph, list[int](), list[fx.Node]()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.copy_.default and node.args[0] in inputs:
            changed, value = node.args[:2]
            if changed.meta["val"].numel() == 1:
                places.append(inputs.index(changed))
                new.append(value)
                node.replace_all_uses_with(value)
                graph.erase_node(node)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ([*output.args[0], *new],)
    pure.recompile()
    return places


@torch.library.custom_op("mtrl::exact_product", mutates_args=())
def exact_product(first: Tensor, second: Tensor) -> Tensor:
    """A product in full precision, whatever PyTorch's setting: (n, k) by (k,) or (k, m), or (b, n, k) by (b, k, m).

    It calls the same PyTorch function as the plain update does for these shapes (mv, mm or bmm), since another function
    may sum in another order on some processors.
    """
    with float32_products("highest"):
        return torch.matmul(first, second)


@exact_product.register_fake
def _(first: Tensor, second: Tensor) -> Tensor:
    return first.new_empty(first.shape[:-1] + second.shape[1 if second.ndim < 3 else 2 :])


def _exact_products() -> dict[Any, Callable[..., Any]]:
    """Let tracing record products computed under the highest precision as `exact_product`, and others as they are."""

    def exact(first: Tensor, second: Tensor) -> Any:
        return exact_product(first, second) if torch.get_float32_matmul_precision() == "highest" else NotImplemented

    return dict.fromkeys((torch.ops.aten.bmm.default, torch.ops.aten.mm.default, torch.ops.aten.mv.default), exact)


_FUSED_ADAM = (torch.ops.aten._fused_adam_.default, torch.ops.aten._fused_adam_.tensor_lr)


def _adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    _: list[Tensor],
    steps: list[Tensor],
    *,
    lr: Any,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Adam (Kingma & Ba 2015) as elementary operations, in place of PyTorch's fused kernel: the compiler fuses them."""
    if weight_decay or amsgrad or maximize or grad_scale is not None:
        found = "compiled updates with Adam's weight decay, amsgrad or maximize"
        raise expected("Option `agent.execution`", "plain with this optimiser", found)
    for parameter, gradient, mean, square, step in zip(parameters, gradients, means, squares, steps, strict=True):
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrections = 1 - beta1 ** step.double(), (1 - beta2 ** step.double()).sqrt()
        rate, root = lr / corrections[0], square.sqrt() / corrections[1].to(parameter) + eps
        parameter.sub_(rate.to(parameter) * mean / root)
