"""Mint on the small convolutional network: each task owns a matrix and a bias after every hidden linear layer.

Mint paper, Sec. 4 ("after every fully connected layer") and App. B. The paper's Table 1 gives 699,000 parameters. At
the sizes of App. B, however, the two matrices (320 × 320) of each of 20 tasks alone have 4.1 million. So compare
parameter counts (`mtrl list networks --benchmark cifar100`) before results. Two options decide what the paper's Eq. 4
leaves open: whether a Mint layer follows the output layer (`output_mint`), and whether each task owns its head
(`own_head`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtrl.networks.base import Factory
from mtrl.networks.images.conv import ConvConfig, convolutions
from mtrl.networks.layers import Linear, owned
from mtrl.networks.mint import Mint


@dataclass
class Config(ConvConfig):
    kind: str = "conv_mint"
    output_mint: bool = False
    """Whether a Mint layer also follows the output layer."""
    own_head: bool = True
    """Whether each task has its own output layer. True by default, as the tasks' classes have nothing in common."""


def build(config: Config, *, image_shape: tuple[int, int, int], output_size: int) -> Factory:
    def factory(code: Tensor) -> nn.Module:
        layers, inputs = convolutions(config, image_shape)
        for _ in range(config.fc_depth):
            layers += [Linear(inputs, config.fc_width), nn.ReLU(inplace=True), owned(Mint(config.fc_width))]
            inputs = config.fc_width
        head = Linear(inputs, output_size)
        layers.append(owned(head) if config.own_head else head)
        if config.output_mint:
            layers.append(owned(Mint(output_size)))
        return nn.Sequential(*layers)

    return factory
