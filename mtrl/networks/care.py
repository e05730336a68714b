"""CARE: a mixture of encoders, whose weights depend on the task's description (Sodhani et al. 2021).

k encoders give z_1(s), .., z_k(s). A small network computes the context c_i of task i from the sentence embedding of
its description (`descriptions`) or, without one, from a vector that the task owns. Another small network of c_i,
followed by a softmax, gives attention weights α. With z = Σ_j α_j z_j, the input of a multi-layer perceptron is
[z, c_i] (paper, Sec. 4 and Fig. 3; arXiv 2102.06177). Encoders and contexts have 50 units as in the authors' code.
There are two deviations. The actor and each critic have their own encoders and contexts; the authors share them and
train them by the critics' loss. In the paper no gradient flows from the attention into the context
(`detach_context=true`). By default it flows here, because gradient penalties and look-aheads differentiate gradients
again, and are correct only if these are the true gradients of the loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.core.config import check, option, path_option
from mtrl.core.errors import expected, reading
from mtrl.networks.base import Factory, NetworkConfig
from mtrl.networks.layers import Linear, TaskVector, Torso, owned, weighted_sum


def read_descriptions(path: str | Path) -> Tensor:
    """The sentence embeddings of T tasks, (T, D), float32, from a .npy file or JSON.

    JSON: a list of T lists of numbers, or a mapping from T names to such lists. Rows are in the order of the tasks.

    Raises:
        UserError: there is no such file, or it holds no matrix of finite float32 numbers.
    """
    path = Path(path).expanduser()
    with reading(path, "a table of embeddings as .npy or JSON"):
        if path.suffix == ".npy":
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            found = list(content.values()) if isinstance(content, dict) else content
        table = np.asarray(found, np.float64)
    if table.ndim != 2 or not table.size or not (np.abs(table) <= np.finfo(np.float32).max).all():
        raise expected(f"File {path}", "a table of finite numbers, a row for each task", f"shape {table.shape}")
    return torch.from_numpy(table.astype(np.float32))


def _perceptron(input_size: int, width: int, depth: int, output_size: int) -> nn.Module:
    """ReLU without layer normalisation. `layer_norm` and `activation` hold for the last perceptron, the torso, only."""
    return nn.Sequential(Torso(input_size, width, depth), Linear(width, output_size))


class Context(nn.Module):
    """The task's context c. forward returns it as one row, (1, size)."""

    def __init__(self, description: Tensor | None, size: int) -> None:
        super().__init__()
        if description is None:
            self.embedding: nn.Module = owned(TaskVector(torch.randn(size), trained=True))
            self.projection: nn.Module = nn.Identity()
        else:
            self.embedding = owned(TaskVector(description))
            last = nn.ReLU(inplace=True)
            self.projection = nn.Sequential(_perceptron(description.numel(), 2 * size, 1, size), last)
        self.trunk = _perceptron(size, size, 2, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.projection(F.relu(self.embedding(x))))


class Care(nn.Module):
    def __init__(self, config: Config, description: Tensor | None, input_size: int, output_size: int) -> None:
        super().__init__()
        size = config.encoder_width
        self.context = Context(description, size)
        self.attention = _perceptron(size, size, 2, config.encoders)
        self.encoders = nn.ModuleList(_perceptron(input_size, size, 1, size) for _ in range(config.encoders))
        self.torso = Torso.of(config, 2 * size)
        self.head = Linear(config.width, output_size)
        self.temperature, self.detach_context = config.temperature, config.detach_context

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        attended = context.detach() if self.detach_context else context
        attention = (self.attention(attended) / self.temperature).softmax(-1)
        encodings = [encoder(x) for encoder in self.encoders]
        mixed = weighted_sum(attention, encodings)
        return self.head(self.torso(torch.cat([mixed, context.expand_as(mixed)], -1)))


@dataclass
class Config(NetworkConfig):
    kind: str = "care"
    encoders: int = option(4, "a positive integer")
    """k: the number of encoders (4 for MT10 in the authors' commands)."""
    encoder_width: int = option(50, "a positive integer")
    """The number of units in the encoders' hidden layer and output, and in the context."""
    temperature: float = option(1.0, "positive")
    """Temperature of the softmax over the encoders."""
    detach_context: bool = False
    """Whether to stop the gradient from the attention into the context, as in the paper."""
    descriptions: str = path_option("", changes_results=True)
    """A file of sentence embeddings with a row for each task, in the tasks' order: .npy (T, D), or JSON (a list of
    rows, or a mapping from names to rows). Without one, each task learns an embedding of its own."""

    def for_goals(self) -> Config:
        check(not self.descriptions, "network.descriptions", "left out where tasks are goals", self.descriptions)
        return self


def build(config: Config, *, input_size: int, output_size: int) -> Factory:
    table = read_descriptions(config.descriptions) if config.descriptions else None

    def factory(code: Tensor) -> nn.Module:
        if table is not None:
            wanted = f"a file with {code.numel()} rows, one for each task"
            check(len(table) == code.numel(), "network.descriptions", wanted, f"{len(table)} rows")
        return Care(config, None if table is None else table[int(code.argmax())], input_size, output_size)

    return factory
