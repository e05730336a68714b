"""Image architectures on the task axis, against T networks called one by one and separate autograd calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.networks import IMAGE_NETWORKS, NETWORKS, TaskNetwork
from mtrl.networks.convolution import BatchNorm, ChannelDropout, Conv2d, Pool, conv2d

T, B, SHAPE, OUTPUT = 3, 4, (2, 6, 6), 3
SMALL: dict[str, dict[str, Any]] = {"vgg16": {"scale": 1 / 16}, "resnet18": {"width": 2, "blocks": 1}}
CONV = {"width": 4, "depth": 2, "fc_width": 6, "fc_depth": 1}
VARIANTS = [
    ("vgg16", {"batch_norm": "task"}),
    ("vgg16", {"batch_norm": "shared", "head_width": 5}),
    ("vgg16", {"last_pool": "mean"}),
    ("conv", {"owned": "head"}),
    ("conv", {"owned": "fc", "batch_norm": "task"}),
    ("conv", {"owned": "all"}),
    ("conv_mint", {"output_mint": True}),
    ("conv_cross_stitch", {}),
    ("conv_routing", {"blocks": 2}),
    ("resnet18", {"last_pixels": 1}),
]
EACH = pytest.mark.parametrize(
    ("kind", "options"), VARIANTS, ids=[f"{k}-{'-'.join(map(str, o.values()))}" for k, o in VARIANTS]
)


def make(kind: str, options: dict[str, Any], *, shared_input: bool = False, tasks: int = T) -> TaskNetwork:
    """A float64 network away from its initial values, where identities could hide mistakes."""
    torch.manual_seed(0)
    config = IMAGE_NETWORKS.config_class(kind)(**{**SMALL.get(kind, CONV), **options})
    factory = IMAGE_NETWORKS.build(config, image_shape=SHAPE, output_size=OUTPUT)
    network = TaskNetwork(factory, tasks, shared_input=shared_input).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def images(tasks: int = T, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, B, *SHAPE, dtype=torch.float64, generator=generator)


def copies(network: TaskNetwork) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.own_buffers.items()}


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_per_task_gradients_equal_separate_autograd_calls(kind: str, options: dict[str, Any], training: bool) -> None:
    if kind == "conv_routing" and training:
        pytest.skip("its training forward draws choices anew")
    network, x = make(kind, options).train(training), images()
    shared, own, _ = network.tensors
    leaves = network.per_task_leaves()
    weights = torch.randn(T, B, OUTPUT, dtype=torch.float64)
    output = network.call(leaves, own, copies(network), x)
    together = torch.autograd.grad((output * weights).sum(), [*leaves.values(), *own.values()])
    for task in range(T):
        loss = (network.call(shared, own, copies(network), x) * weights)[task].sum()
        alone = torch.autograd.grad(loss, [*shared.values(), *own.values()])
        for batched, single in zip(together[: len(leaves)], alone, strict=False):
            torch.testing.assert_close(batched[task], single, atol=1e-10, rtol=1e-8)
        for batched, single in zip(together[len(leaves) :], alone[len(leaves) :], strict=True):
            torch.testing.assert_close(batched[task], single[task], atol=1e-10, rtol=1e-8)
            assert not single[[t for t in range(T) if t != task]].any(), "a task moves what another task owns"


@EACH
def test_one_task_alone_is_the_same_network(kind: str, options: dict[str, Any]) -> None:
    """What a task computes depends neither on other tasks' images nor, in evaluation, on its other rows."""
    network, x = make(kind, options), images()
    changed = images(seed=9)
    changed[1] = x[1]
    for training in (False, True):
        network.train(training)
        results = []
        for inputs in (x, changed):
            torch.manual_seed(0)
            results.append(network.call(*network.tensors[:2], copies(network), inputs)[1])
        torch.testing.assert_close(*results)
    network.eval()
    torch.testing.assert_close(network(x)[:, :1], network(x[:, :1]))


@EACH
def test_a_shared_input_gives_what_repeated_images_give(kind: str, options: dict[str, Any]) -> None:
    network, x = make(kind, options, shared_input=True), images(1)
    for training in (False, True):
        network.train(training)
        results, statistics = [], []
        for inputs in (x, x.expand(T, *x.shape[1:])):
            torch.manual_seed(0)
            buffers = copies(network)
            results.append(network.call(*network.tensors[:2], buffers, inputs))
            statistics.append(buffers)
        torch.testing.assert_close(*results)
        assert results[0].shape == (T, B, OUTPUT)
        torch.testing.assert_close(*statistics)


@pytest.mark.parametrize("kind", IMAGE_NETWORKS.kinds)
def test_every_kind_is_tested_here(kind: str) -> None:
    assert kind in {k for k, _ in VARIANTS} and kind not in NETWORKS.kinds


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (5, 3)])
def test_the_merged_convolution_is_one_per_task(kernel: int, stride: int) -> None:
    """Forward, input and weight gradients of T plain convolutions, with shared, per-task and owned weights."""
    x = images().requires_grad_()
    weight = torch.randn(5, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"padding": kernel // 2, "stride": stride}
    plain = torch.stack([F.conv2d(image, weight, **options) for image in x])
    grad = torch.randn_like(plain)
    expected_x, expected_weight = torch.autograd.grad((plain * grad).sum(), [x, weight])
    each = torch.stack([torch.autograd.grad((F.conv2d(i, weight, **options) * g).sum(), weight)[0]
                        for i, g in zip(x.detach(), grad, strict=True)])  # fmt: skip
    leaf = weight.detach().expand(T, -1, -1, -1, -1).requires_grad_()
    owned = weight.detach().repeat(T, 1, 1, 1, 1).requires_grad_()
    for given, gradient in ((weight, expected_weight), (leaf, each), (owned, each)):
        output = conv2d(x, given, **options)
        torch.testing.assert_close(output, plain)
        found_x, found = torch.autograd.grad((output * grad).sum(), [x, given])
        torch.testing.assert_close(found_x, expected_x)
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 4), (1, 1)])
def test_pooling_is_pytorchs_with_and_without_a_gradient(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, *size)
    window = (min(2, size[0]), min(2, size[1]))
    expected = F.max_pool2d(x.flatten(0, 1), window).unflatten(0, (2, 3))
    assert torch.equal(Pool()(x), expected)
    assert torch.equal(Pool()(x.requires_grad_()), expected)


@pytest.mark.parametrize("kind", ["vgg16", "conv"])
def test_images_may_have_one_side_much_longer_than_the_other(kind: str) -> None:
    shape = (2, 2, 24)
    options = CONV | {"depth": 3} if kind == "conv" else SMALL["vgg16"]
    config = IMAGE_NETWORKS.module(kind).Config(**options)
    network = TaskNetwork(IMAGE_NETWORKS.build(config, image_shape=shape, output_size=OUTPUT), T)
    assert network(torch.randn(T, B, *shape)).shape == (T, B, OUTPUT)


def test_double_backward_through_the_per_task_convolution() -> None:
    x = images().requires_grad_()
    leaf = torch.randn(2, 2, 3, 3, dtype=torch.float64).expand(T, -1, -1, -1, -1).requires_grad_()

    def gradient_norm(x: Tensor) -> Tensor:
        loss = conv2d(x, leaf, 1).tanh().sum()
        return torch.autograd.grad(loss, leaf, create_graph=True)[0].square().sum()

    exact = torch.autograd.grad(gradient_norm(x), x)[0]
    direction = torch.randn_like(x)
    step = 1e-6
    numerical = (gradient_norm(x + step * direction) - gradient_norm(x - step * direction)) / (2 * step)
    torch.testing.assert_close((exact * direction).sum(), numerical, rtol=1e-5, atol=1e-6)


def test_batch_norm_is_pytorchs_for_each_task() -> None:
    """Outputs, and running statistics after three training batches, of T `BatchNorm2d`."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)

    network = TaskNetwork(lambda code: Norm(), T).double()
    theirs = [nn.BatchNorm2d(2).double() for _ in range(T)]
    x = images()
    for seed in range(3):
        x = 2 * images(seed=seed) + 1
        network.train()
        found = network(x)
        torch.testing.assert_close(found, torch.stack([norm(image) for norm, image in zip(theirs, x, strict=True)]))
    network.eval()
    for norm in theirs:
        norm.eval()
    torch.testing.assert_close(network(x), torch.stack([norm(i) for norm, i in zip(theirs, x, strict=True)]))
    statistics = network.own_buffers
    means = next(v for k, v in statistics.items() if k.endswith("mean"))
    torch.testing.assert_close(
        means, torch.stack([norm.running_mean for norm in theirs if norm.running_mean is not None])
    )


def test_statistics_move_once_in_a_training_forward_and_never_in_evaluation() -> None:
    network, x = make("vgg16", {}), images()
    before = copies(network)
    network.eval()
    network(x)
    assert all(torch.equal(before[n], b) for n, b in network.own_buffers.items())
    network.train()
    network.call(*network.tensors[:2], copies(network), x)
    assert all(torch.equal(before[n], b) for n, b in network.own_buffers.items()), "copies were to take the change"
    network(x)
    assert all(not torch.equal(before[n], b) for n, b in network.own_buffers.items())


def test_vgg16_has_its_thirteen_convolutions() -> None:
    """14,710,464 weights of 3×3 filters for three channels: the published network without its biases."""
    config = IMAGE_NETWORKS.config_class("vgg16")()
    module = IMAGE_NETWORKS.build(config, image_shape=(3, 32, 32), output_size=5)(torch.zeros(1))
    weights = [m.weight.numel() for m in module.modules() if isinstance(m, Conv2d)]
    assert len(weights) == 13 and sum(weights) == 14_710_464


def test_vgg16_ends_in_pytorchs_average_pool_where_that_is_asked_for() -> None:
    config = IMAGE_NETWORKS.config_class("vgg16")(last_pool="mean", **SMALL["vgg16"])
    trunk = IMAGE_NETWORKS.build(config, image_shape=(3, 32, 32), output_size=None)(torch.zeros(1))
    x = torch.randn(4, 3, 32, 32)
    before = trunk[:-2](x)
    assert before.shape[-2:] == (2, 2)
    torch.testing.assert_close(trunk(x), F.adaptive_avg_pool2d(before, 1).flatten(1))
    assert IMAGE_NETWORKS.module("vgg16").trunk_size(config, (3, 32, 32)) == before.shape[1]


def test_resnet18_has_its_published_parameters() -> None:
    """11,168,832 of the trunk for small images, batch norms included, and 2048 features of a picture of 64×64."""
    config = IMAGE_NETWORKS.config_class("resnet18")()
    trunk = IMAGE_NETWORKS.build(config, image_shape=(3, 64, 64), output_size=None)(torch.zeros(1))
    assert sum(p.numel() for p in trunk.parameters()) == 11_168_832
    assert IMAGE_NETWORKS.module("resnet18").trunk_size(config, (3, 64, 64)) == 2048


def test_resnet18_is_plain_pytorch_with_its_weights() -> None:
    """The first stages by functional calls: a shortcut of the identity, and one that halves the image."""
    config = IMAGE_NETWORKS.config_class("resnet18")(width=3, blocks=1, dropout=0.5)
    trunk: Any = IMAGE_NETWORKS.build(config, image_shape=(3, 8, 8), output_size=None)(torch.zeros(1)).eval()
    x = torch.randn(4, 3, 8, 8)

    def conv(x: Tensor, layer: Any, norm: Any, stride: int = 1) -> Tensor:
        y = F.conv2d(x, layer.weight, padding=layer.weight.shape[-1] // 2, stride=stride)
        return F.batch_norm(y, norm.statistics.mean, norm.statistics.variance, norm.scale, norm.shift)

    expected = F.relu(conv(x, trunk[0], trunk[1]))
    for block, stride in ((trunk[4], 1), (trunk[5], 2)):
        inner = conv(F.relu(conv(expected, block.first[0], block.first[1], stride)), block.second[1], block.second[2])
        shortcut = conv(expected, block.shortcut[0], block.shortcut[1], stride) if stride == 2 else expected
        expected = F.relu(inner + shortcut)
    torch.testing.assert_close(trunk[:6](x), expected)


@pytest.mark.parametrize("lead", [(4000,), (1, 4000), (2, 2000)])
def test_whole_channels_are_dropped_in_training_alone(lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = ChannelDropout(0.3), torch.rand(*lead, 2, 3, 3) + 1
    found = layer(x)
    kept = (found != 0).flatten(0, -4)
    assert torch.equal(kept.all((2, 3)), kept.any((2, 3))), "all of a channel's pixels, or none"
    torch.testing.assert_close(found[found != 0], (x / 0.7)[found != 0])
    assert abs(kept.double().mean() - 0.7) < 0.02 and kept[:, 0, 0, 0].ne(kept[:, 1, 0, 0]).any()
    assert layer.eval()(x) is x


def test_a_trunk_has_the_size_it_says() -> None:
    for kind in ("vgg16", "conv", "resnet18"):
        config = IMAGE_NETWORKS.config_class(kind)(**SMALL.get(kind, CONV))
        trunk = IMAGE_NETWORKS.build(config, image_shape=SHAPE, output_size=None)(torch.zeros(1))
        size = IMAGE_NETWORKS.module(kind).trunk_size(config, SHAPE)
        assert trunk(torch.zeros(2, *SHAPE)).shape == (2, size)


def test_a_stitch_of_the_identity_makes_columns_of_their_own() -> None:
    """With α = 1 on the diagonal a task's output is its column's alone, and moves with no other column's weights."""
    network, x = make("conv_cross_stitch", {"own_share": 1.0}), images()
    with torch.no_grad():
        for name, matrix in network.shared.items():
            if name.endswith("matrix"):
                matrix.copy_(torch.eye(T))
    before = network(x)
    with torch.no_grad():
        for name, tensor in network.shared.items():
            if "/layers/" in name:
                tensor[1].add_(1.0)
    after = network(x)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.allclose(before[1], after[1])


def test_a_router_takes_its_likeliest_block_and_draws_in_training() -> None:
    network, x = make("conv_routing", {"blocks": 2}), images()
    with torch.no_grad():
        for name, logits in network.own.items():
            if name.endswith("logits"):
                logits.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]))
    network.eval()
    before = network(x)
    with torch.no_grad():
        for name, tensor in network.shared.items():
            if "/layers/" in name:
                tensor[0].add_(1.0)
    assert torch.equal(before[1:], network(x)[1:]) and not torch.allclose(before[0], network(x)[0])
    network.train()
    outputs = torch.stack([network.call(*network.tensors[:2], copies(network), x) for _ in range(60)])
    assert any(not torch.allclose(outputs[0, t], o[t]) for o in outputs for t in range(T))


def test_an_image_network_is_refused_where_vectors_are_needed() -> None:
    with pytest.raises(UserError, match="should be one of care, concat_all"):
        NETWORKS.build(IMAGE_NETWORKS.config_class("vgg16")(), input_size=3, output_size=1)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("vgg16", {"batch_norm": "none"}, "batch_norm"),
        ("vgg16", {"scale": 0.0}, "scale"),
        ("conv", {"owned": "trunk"}, "owned"),
        ("conv", {"width": 0}, "width"),
        ("conv_routing", {"blocks": 0}, "blocks"),
        ("resnet18", {"dropout": 1.0}, "dropout"),
        ("conv_cross_stitch", {"own_share": 1.5}, "own_share"),
    ],
)
def test_bad_options_are_refused_by_name(kind: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"network.{name}"):
        IMAGE_NETWORKS.config_class(kind)(**options)
