"""Networks for pixels on the task axis, against separate autograd calls, and against published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.networks import DENSE_NETWORKS, TaskNetwork
from mtrl.networks.convolution import Conv2d
from mtrl.networks.dense import resnet
from mtrl.networks.dense.mtan import MTAN

T, B, SHAPE, OUTPUTS = 3, 2, (3, 15, 18), 4
SMALL: dict[str, Any] = {"depth": "18", "scale": 1 / 32, "head_width": 3, "rates": [1, 2], "dropout": 0.0}
VARIANTS = [("split", {}), ("split", {"stem_stride": "1"}), ("mtan", {"stem_stride": "2"}), ("mtan", {"depth": "50"})]
EACH = pytest.mark.parametrize(("kind", "options"), VARIANTS)


def make(kind: str, options: dict[str, Any], shared_input: bool = True) -> TaskNetwork:
    torch.manual_seed(0)
    config = DENSE_NETWORKS.config_class(kind)(**{**SMALL, **options})
    factory = DENSE_NETWORKS.build(config, image_channels=SHAPE[0], outputs=OUTPUTS)
    return TaskNetwork(factory, T, shared_input=shared_input).double()


def images(tasks: int = 1) -> Tensor:
    return torch.randn(tasks, B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def called(network: TaskNetwork, shared: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the statistics after it."""
    buffers = {name: buffer.clone() for name, buffer in network.own_buffers.items()}
    return network.call(shared, network.tensors[1], buffers, x), buffers


@EACH
def test_a_shared_input_gives_what_repeated_pictures_give(kind: str, options: dict[str, Any]) -> None:
    """Outputs of the pictures' size, statistics and, in one pass, the gradients that one pass for each task gives."""
    network, x = make(kind, options), images()
    weights = torch.randn(T, B, OUTPUTS, *SHAPE[1:], dtype=torch.float64)
    shared, own, _ = network.tensors
    once, statistics = called(network, shared, x)
    leaves = network.per_task_leaves()
    repeated, others = called(network, leaves, x.expand(T, *x.shape[1:]))
    assert once.shape == weights.shape
    torch.testing.assert_close(once, repeated)
    torch.testing.assert_close(statistics, others)
    together = torch.autograd.grad((repeated * weights).sum(), [*leaves.values(), *own.values()])
    for task in range(T):
        loss = (once[task] * weights[task]).sum()
        alone = torch.autograd.grad(loss, [*shared.values(), *own.values()], retain_graph=True)
        for number, (batched, single) in enumerate(zip(together, alone, strict=True)):
            single = single if number < len(shared) else single[task]
            torch.testing.assert_close(batched[task], single, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("kind", DENSE_NETWORKS.kinds)
def test_every_kind_is_tested_here(kind: str) -> None:
    assert kind in {k for k, _ in VARIANTS}


@pytest.mark.parametrize(("depth", "count"), [("18", 11_176_512), ("50", 23_508_032)])
def test_the_trunk_has_the_published_parameters(depth: str, count: int) -> None:
    """He et al.'s networks without their last layer, as torchvision counts them."""
    config = DENSE_NETWORKS.config_class("split")(depth=depth)
    trunk = DENSE_NETWORKS.build(config, image_channels=3, outputs=1)(torch.zeros(1)).trunk
    assert sum(p.numel() for p in trunk.parameters()) == count


def test_the_last_stages_keep_the_size_and_widen_their_filters() -> None:
    """Stride and dilation of every 3×3 filter after the first layers, as torchvision's ResNet-50 has them."""
    config = DENSE_NETWORKS.config_class("split")(scale=1 / 64)
    _, stages = resnet.stages(config, 3)
    found = [
        [(c.stride, c.dilation) for block in blocks for c in block.modules() if isinstance(c, Conv2d) and c.padding]
        for blocks in stages
    ]
    wanted = [[(1, 1)] * 3, [(2, 1), *[(1, 1)] * 3], [(1, 1), *[(1, 2)] * 5], [(1, 2), *[(1, 4)] * 2]]
    assert found == wanted


def test_a_dilated_convolution_with_a_stride_and_a_bias_is_pytorchs() -> None:
    """For each task; forward and gradients, with shared, per-task and owned weights."""
    ours = Conv2d(2, 3, 3, stride=2, dilation=2, bias=True).double()
    x = torch.randn(T, B, 2, 9, 8, dtype=torch.float64)
    network = TaskNetwork(lambda code: ours, T).double()
    with torch.no_grad():
        network.shared["bias"].uniform_(1, 2)
    weight, bias = network.shared["weight"], network.shared["bias"]
    theirs = [F.conv2d(rows, weight, bias, stride=2, padding=2, dilation=2) for rows in x]
    torch.testing.assert_close(network(x), torch.stack(theirs))
    leaves = network.per_task_leaves()
    found = torch.autograd.grad(called(network, leaves, x)[0].square().sum(), list(leaves.values()))
    for task, output in enumerate(theirs):
        alone = torch.autograd.grad(output.square().sum(), [weight, bias])
        torch.testing.assert_close([gradient[task] for gradient in found], list(alone))


def _ones(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    return torch.ones_like(output)


def test_attention_of_ones_passes_the_features_on() -> None:
    """With masks of 1, what the fourth stage makes goes to the head unchanged: the network is Split's."""
    config = DENSE_NETWORKS.config_class("mtan")(**SMALL)
    mtan = MTAN(config, 3, OUTPUTS).double()
    for mask in mtan.masks:
        mask.register_forward_hook(_ones)
    x = images()[0]
    with torch.no_grad():
        trunk = nn.Sequential(
            mtan.stem, *(layer for pair in zip(mtan.stages, mtan.lasts, strict=True) for layer in pair)
        )
        torch.testing.assert_close(mtan(x), resnet.enlarged(mtan.head(trunk(x)), x.shape[-2:]))


def test_bad_options_are_refused_by_name() -> None:
    for option, value in (("depth", "49"), ("scale", 0.0), ("rates", []), ("dropout", 1.0), ("stem_stride", "3")):
        with pytest.raises(UserError, match=f"network.{option}"):
            DENSE_NETWORKS.config_class("split")(**{option: value})
