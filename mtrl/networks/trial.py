"""Checks networks from outside of mtrl by a forward pass, and for vectors a backward pass, before a run begins.

The check makes a network of its own, for at most 3 tasks. It leaves the state of PyTorch's CPU generator unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.core.errors import UserError, expected, told
from mtrl.core.registry import Registry
from mtrl.networks import DENSE_NETWORKS, IMAGE_NETWORKS, NETWORKS
from mtrl.networks.base import Factory, TaskNetwork

_TASKS, _BATCH = 3, 5
"""The largest number of tasks of a checked network, and the batch size. They differ to reveal a mistaken axis."""


def build_tried(
    config: Any, codes: Tensor, ensemble: int | None = None, *, input_size: int, output_size: int
) -> Factory:
    """The factory of the network that `config` describes, for vectors as inputs. Networks of mtrl are not checked.

    codes (T, C), ensemble: as for the `TaskNetwork` that will be made with the factory.

    Raises:
        UserError: the network raises an error; its output has the wrong shape, is not finite or is detached; its
            derivatives are not finite; it draws random numbers; a row of its output depends on several input rows; or
            a plain attribute holds a tensor that differs between tasks.
    """
    factory: Factory = NETWORKS.build(config, input_size=input_size, output_size=output_size)
    if not NETWORKS.ours(config.kind):
        with torch.random.fork_rng(devices=[]):
            _try_vectors(config.kind, factory, codes[:_TASKS], ensemble, input_size, output_size)
    return factory


def build_classifier(
    config: Any, *, image_shape: tuple[int, int, int], output_size: int, shared_input: bool
) -> Factory:
    """The factory of a network for images, with output (T, B, output_size). Networks of mtrl are not checked.

    Args:
        image_shape: (C, H, W)
        shared_input: whether all tasks see the same images, (1, B, C, H, W) instead of (T, B, C, H, W).

    Raises:
        UserError: the network raises an error, or its output has the wrong shape, is not finite or is detached.
    """
    factory: Factory = IMAGE_NETWORKS.build(config, image_shape=image_shape, output_size=output_size)
    _try_images(IMAGE_NETWORKS, config.kind, factory, image_shape, (output_size,), shared_input)
    return factory


def build_trunk(config: Any, *, image_shape: tuple[int, int, int]) -> tuple[Factory, int]:
    """The factory of a network for images without its output layer, and its number of features.

    Networks are checked as in `build_classifier`.

    Raises:
        UserError: as in `build_classifier`, or the network's module has no `trunk_size`.
    """
    module = IMAGE_NETWORKS.module(config.kind)
    if not hasattr(module, "trunk_size"):
        what = "one with a function trunk_size(config, image_shape), as this agent adds layers of its own"
        raise expected(f"The module of network={config.kind}", what, f"{module.__name__} without it")
    factory: Factory = IMAGE_NETWORKS.build(config, image_shape=image_shape, output_size=None)
    size: int = module.trunk_size(config, image_shape)
    _try_images(IMAGE_NETWORKS, config.kind, factory, image_shape, (size,), shared_input=False)
    return factory, size


def build_dense(config: Any, *, image_shape: tuple[int, int, int], outputs: int) -> Factory:
    """The factory of a network that maps pictures (1, B, C, H, W) to (T, B, outputs, H, W).

    Networks are checked as in `build_classifier`.

    Raises:
        UserError: as in `build_classifier`.
    """
    factory: Factory = DENSE_NETWORKS.build(config, image_channels=image_shape[0], outputs=outputs)
    _try_images(DENSE_NETWORKS, config.kind, factory, image_shape, (outputs, *image_shape[1:]), shared_input=True)
    return factory


def _try_images(
    registry: Registry,
    kind: str,
    factory: Factory,
    image_shape: tuple[int, int, int],
    output_shape: tuple[int, ...],
    shared_input: bool,
) -> None:
    if registry.ours(kind):
        return
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(1 if shared_input else _TASKS, _BATCH, *image_shape)
        make = partial(TaskNetwork, factory, _TASKS, shared_input=shared_input)
        _call(registry, kind, make, images, (_TASKS, _BATCH, *output_shape))


def _try_vectors(
    kind: str, factory: Factory, codes: Tensor, ensemble: int | None, input_size: int, output_size: int
) -> None:
    shape = (*([] if ensemble is None else [ensemble]), len(codes), _BATCH, output_size)
    x = torch.randn(len(codes), _BATCH, input_size).requires_grad_()
    make = partial(TaskNetwork, factory, len(codes), ensemble, codes)
    output, owner, drew = _call(NETWORKS, kind, make, x, shape, f": {output_size} numbers for each row")
    plain = [_plain_tensors(factory(code)) for code in codes[:2]]
    for name, value in plain[0].items():
        if not torch.equal(value, plain[-1][name]):
            what = "held as owned(TaskCode(code)) or owned(TaskVector(value)), as it differs between tasks"
            raise expected(f"`{name}` in {owner}", what, "a tensor in a plain attribute")
    if drew:
        what = "without randomness such as dropout, as the same network learns and acts"
        raise expected(owner, what, "a network that draws random numbers")
    row = output[..., 0, 0, :].sum()
    (gradient,) = torch.autograd.grad(row, x, allow_unused=True) if row.requires_grad else (None,)
    if gradient is not None and not gradient.isfinite().all():
        raise expected(owner, "one whose derivatives are finite", "NaN or infinity")
    if gradient is not None and gradient.flatten(0, 1)[1:].any():
        what = "one that computes each row separately (x.mean(-1), never x.mean(1) or x.flatten(1))"
        raise expected(owner, what, "a row that depends on another")


def _plain_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold as plain attributes. All tasks would use those of the first task."""
    return {
        f"{place}.{name}".lstrip("."): value
        for place, module in network.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    }


def _call(
    registry: Registry, kind: str, make: Callable[[], TaskNetwork], x: Tensor, shape: tuple[int, ...], note: str = ""
) -> tuple[Tensor, str, bool]:
    """The output for x, the network's name in error messages, and whether the network drew random numbers.

    note: what messages add to the expected shape.
    """
    owner, hint = f"The network of network={kind}", ""
    what = f"one that gives a tensor {shape} for inputs {tuple(x.shape)}{note}"
    try:
        network = make()
        owner, hint = f"{network.architecture}, of network={kind},", _about_parameters(network)
        before = torch.get_rng_state()
        output: Any = network.call(network.per_task_leaves(), *network.tensors[1:], x * 1)
    except UserError:
        raise
    except Exception as error:  # the network may raise any error
        raise UserError(f"{expected(owner, what, told(error, registry.place(kind)))}{hint}") from error
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != shape:
        raise expected(owner, what, found)
    if not output.isfinite().all():
        raise expected(owner, f"{what}, all finite", "NaN or infinity")
    if not output.requires_grad and any(parameter.requires_grad for parameter in network.parameters()):
        raise expected(owner, "one whose output depends on its parameters", "a detached tensor")
    return output, owner, not torch.equal(before, torch.get_rng_state())


def _about_parameters(network: TaskNetwork) -> str:
    """A hint for a network that fails while modules from outside of PyTorch and mtrl hold tensors of it; else ""."""
    names = [name for name, module in network.holders.items() if not module.startswith(("mtrl.", "torch."))]
    if not names:
        return ""
    how = "a TaskVector(value), with trained=True for a parameter, which broadcasts with x"
    return f" Make each tensor of your own, such as `{names[0]}`, {how}."
