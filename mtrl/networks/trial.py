"""One forward pass of a network from outside of the package, before a run begins.

It works on a small network of its own. PyTorch's random numbers afterwards are those that they would have been.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.core.errors import UserError, expected, told
from mtrl.networks import NETWORKS
from mtrl.networks.base import Factory, TaskNetwork

_TASKS, _BATCH = 3, 5
"""At most as many tasks, and inputs of each: different numbers, so that a wrong axis shows."""


def build_tried(
    config: Any, codes: Tensor, ensemble: int | None = None, *, input_size: int, output_size: int
) -> Factory:
    """The factory of the network for vectors that a configuration describes, tried out unless it is the package's own.

    codes (T, C) and ensemble are those of the `TaskNetwork` that is to be made of it.

    Raises:
        UserError: the network fails, gives another shape, draws random numbers, or lets a row depend on another.
    """
    factory: Factory = NETWORKS.build(config, input_size=input_size, output_size=output_size)
    if not NETWORKS.ours(config.kind):
        with torch.random.fork_rng(devices=[]):
            _try_out(config.kind, factory, codes[:_TASKS], ensemble, input_size, output_size)
    return factory


def _try_out(
    kind: str, factory: Factory, codes: Tensor, ensemble: int | None, input_size: int, output_size: int
) -> None:
    owner, hint = f"The network of network={kind}", ""
    inputs = (len(codes), _BATCH, input_size)
    shape = (*([] if ensemble is None else [ensemble]), len(codes), _BATCH, output_size)
    what = f"one that gives a tensor {shape} for inputs {inputs}: {output_size} numbers for each row"
    x = torch.randn(inputs).requires_grad_()
    try:
        network = TaskNetwork(factory, len(codes), ensemble, codes)
        owner, hint = f"{network.architecture}, of network={kind},", _about_parameters(network)
        before = torch.get_rng_state()
        output: Any = network.call(network.per_task_leaves(), *network.tensors[1:], x * 1)
    except UserError:
        raise
    except Exception as error:  # of whatever is in it
        raise UserError(f"{expected(owner, what, told(error, NETWORKS.place(kind)))}{hint}") from error
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != shape:
        raise expected(owner, what, found)
    if not torch.equal(before, torch.get_rng_state()):
        raise expected(owner, "without randomness such as dropout, as the same network learns and acts", "some")
    row = output[..., 0, 0, :].sum()
    (gradient,) = torch.autograd.grad(row, x, allow_unused=True) if row.requires_grad else (None,)
    if gradient is not None and gradient.flatten(0, 1)[1:].any():
        what = "one that computes each row alone (x.mean(-1), never x.mean(1) or x.flatten(1))"
        raise expected(owner, what, "a row that depends on another")


def _about_parameters(network: TaskNetwork) -> str:
    """What to say of parameters that stand in modules of one's own, where the network fails."""
    names = [name for name, module in network.holders.items() if not module.startswith(("mtrl.", "torch."))]
    if not names:
        return ""
    return f" A parameter of your own, such as `{names[0]}`, is TaskVector(value, trained=True), which lines up with x."
