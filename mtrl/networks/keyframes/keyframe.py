"""The Auto-λ paper's network for RLBench: attention over pictures, soft-argmax over point clouds (App. B, Fig. 8).

An encoder–decoder sees each camera's colours and points. The position decoder gives one attention map over the patches
of all cameras. The position is the mean of the patches' world points, weighted by attention (spatial soft-argmax,
Levine et al. 2016), plus an offset that each task learns for each stage (the number of keyframes already reached). The
rotation decoder regresses a quaternion and the gripper's logit. An embedding of task and stage scales and shifts the
channels of the bottleneck. A task owns its embeddings and offsets, and nothing else. The paper trains for 8,000
iterations on batches of 32, with a learning rate of 1e-3 for the network (Adam) and of 3e-5 for Auto-λ.

Sizes and normalisation are ours, as the paper gives none. Unlike in the paper, the rotation decoder also sees the
features at the attended patches.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import Options, check, option
from mtrl.networks.base import Factory
from mtrl.networks.convolution import Conv2d, Pool
from mtrl.networks.layers import Linear, owned


@dataclass
class Config(Options):
    option_group: ClassVar[str] = "network"
    kind: str = "keyframe"
    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    """Channels of the encoder's levels. Each level has half the height and width of the one before; the decoder mirrors
    them."""
    patch: int = option(2, "a positive integer")
    """Side in pixels of the square patches that the first level folds into channels. Attention is over patches."""
    embedding: int = option(64, "a positive integer")
    """Size of the embedding of a task and stage."""
    stages: int = option(8, "a positive integer")
    """Number of stages with an embedding and offset of their own. Later stages use the last one's."""
    rotation_width: int = option(256, "a positive integer")
    """Hidden units of the rotation decoder."""
    rotation_channels: int = option(16, "a positive integer")
    """Channels to which the bottleneck is reduced. The rotation decoder sees all pixels of the reduced map."""
    blind: bool = False
    """Whether colours and points are set to zero, as a control: the network then sees only task and stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.channels) >= 2, "network.channels", "at least 2 levels", self.channels)
        check(min(self.channels) >= 1, "network.channels", "positive integers", self.channels)


class Prediction(NamedTuple):
    """The next keyframe. C: cameras; h, w: patches along the height and width of a picture."""

    position: Tensor
    """(.., B, 3): metres, in the world's coordinates."""
    quaternion: Tensor
    """(.., B, 4): xyzw, of length 1."""
    gripper: Tensor
    """(.., B): logit of the probability that the gripper is open."""
    attention: Tensor
    """(.., B, C, h, w): sums to 1 over cameras and patches."""


class ChannelNorm(nn.Module):
    """Group normalisation (Wu & He 2018). scale and shift: (channels,), or (.., T, channels) with a task axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale.ndim == 1:
            return F.group_norm(x.flatten(0, -4), self.groups, self.scale, self.shift).view_as(x)
        plain = F.group_norm(x.flatten(0, -4), self.groups).view_as(x)
        scale, shift = (t.unsqueeze(-1).unsqueeze(-1).unsqueeze(-4) for t in (self.scale, self.shift))
        return torch.addcmul(shift, plain, scale)


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(Conv2d(inputs, outputs), ChannelNorm(outputs), nn.ReLU(inplace=True))


class Table(nn.Module):
    """A vector of E numbers for each of S stages. rows (S, E). forward: one-hot stages (.., B, S) -> (.., B, E)."""

    def __init__(self, stages: int, size: int, spread: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(spread * torch.randn(stages, size))

    def forward(self, stage: Tensor) -> Tensor:
        return stage @ self.rows


def _large(x: Tensor) -> Tensor:
    """Double the height and width of x (.., B, C, H, W) by repeating pixels."""
    return F.interpolate(x.flatten(0, -4), scale_factor=2.0, mode="nearest").unflatten(0, x.shape[:-3])


class KeyframeNetwork(nn.Module):
    """The network of one task, for C cameras.

    forward: colours (.., B, C, 3, H, W) in [0, 1], world points (.., B, C, 3, H, W) in metres and stages (.., B) int64
    -> `Prediction`.
    """

    def __init__(self, config: Config, cameras: int, image_size: int) -> None:
        super().__init__()
        self.config, self.cameras = config, cameras
        first, *_, last = config.channels
        pairs = list(itertools.pairwise(config.channels))
        self.encoder = nn.ModuleList([_block(6 * config.patch**2, first), *(_block(a, b) for a, b in pairs)])
        self.decoder = nn.ModuleList([_block(a + b, a) for a, b in reversed(pairs)])
        self.pool, self.attention = Pool(), Conv2d(first, 1)
        self.embedding = owned(Table(config.stages, config.embedding, 1.0))
        self.offset = owned(Table(config.stages, 3, 0.0))
        self.modulation = Linear(config.embedding, 2 * last)
        self.camera = nn.Parameter(0.1 * torch.randn(cameras, last))
        self.squeeze = _block(last, config.rotation_channels)
        side = image_size // config.patch // 2 ** len(pairs)
        inputs = cameras * config.rotation_channels * side * side + first + config.embedding
        self.rotation = nn.Sequential(
            Linear(inputs, config.rotation_width), nn.ReLU(inplace=True), Linear(config.rotation_width, 5)
        )

    def forward(self, colours: Tensor, points: Tensor, stage: Tensor) -> Prediction:
        if self.config.blind:
            colours, points = torch.zeros_like(colours), torch.zeros_like(points)
        one_hot = F.one_hot(stage.clamp(max=self.config.stages - 1), self.config.stages).to(points.dtype)
        embedding = self.embedding(one_hot)
        maps, bottleneck = self._maps(torch.cat([colours - 0.5, points], -3), embedding)
        attention = self._attention(maps)
        picked = points[..., self.config.patch // 2 :: self.config.patch, self.config.patch // 2 :: self.config.patch]
        position = _under(attention, picked) + self.offset(one_hot)
        squeezed = self.squeeze(bottleneck).unflatten(-4, (-1, self.cameras)).flatten(-4)
        attended = _under(attention, maps.unflatten(-4, (-1, self.cameras)))
        output = self.rotation(torch.cat([squeezed, attended, embedding], -1))
        return Prediction(position, F.normalize(output[..., :4], dim=-1), output[..., 4], attention)

    def _maps(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's features (.., B·C, first, h, w), and the bottleneck (.., B·C, last, h', w')."""
        x = F.pixel_unshuffle(x.flatten(-5, -4), self.config.patch)
        levels: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(self.pool(x) if index else x)
            levels.append(x)
        x = bottleneck = self._conditioned(levels.pop(), embedding)
        for block in self.decoder:
            x = block(torch.cat([_large(x), levels.pop()], -3))
        return x, bottleneck

    def _conditioned(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Scale the bottleneck's channels by task and stage, and shift them by task, stage and camera."""
        scale, shift = self.modulation(embedding).unsqueeze(-2).chunk(2, -1)
        shift = shift + self.camera.unsqueeze(-3)
        scale, shift = ((t + torch.zeros_like(shift)).flatten(-3, -2)[..., None, None] for t in (scale, shift))
        return x * (1 + scale) + shift

    def _attention(self, maps: Tensor) -> Tensor:
        """One distribution over the patches of all cameras, (.., B, C, h, w)."""
        logits = self.attention(maps).squeeze(-3).unflatten(-3, (-1, self.cameras))
        return logits.flatten(-3).softmax(-1).view_as(logits)


def _under(attention: Tensor, values: Tensor) -> Tensor:
    """The mean of values (.., B, C, F, h, w), weighted by attention (.., B, C, h, w), as (.., B, F)."""
    rows = values.transpose(-4, -3).flatten(-3)
    return (rows @ attention.flatten(-3).unsqueeze(-1)).squeeze(-1)


def build(config: Config, *, cameras: int, image_size: int) -> Factory:
    """Build the network for C = `cameras` square pictures with `image_size` pixels along a side.

    Raises:
        UserError: `image_size` is not a multiple of the network's downsampling.
    """
    levels = config.patch * 2 ** (len(config.channels) - 1)
    check(image_size % levels == 0, "benchmark.image_size", f"a multiple of {levels} for this network", image_size)
    return lambda code: KeyframeNetwork(config, cameras, image_size)
