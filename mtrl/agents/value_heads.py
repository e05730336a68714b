"""How a critic's outputs become values, and their losses for given targets.

Every head has an `output_size`. Its `value(output)` and `loss(output, target)` map outputs (.., output_size) to (..,).
`Symlog` and `PopArt` change the scale of another head's targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.agents.base import AgentConfig
from mtrl.agents.normalisation import merge
from mtrl.core.config import check, option
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.gradients.algebra import like
from mtrl.networks.base import Factory
from mtrl.networks.film import FiLM
from mtrl.networks.layers import owned

SMOOTHING = 0.75
"""Standard deviation of HL-Gauss's targets, in bin widths (Farebrother et al. 2024, Sec. 3.2)."""
MIN_DEVIATION, MAX_DEVIATION = 1e-4, 1e6
"""Bounds of the standard deviation of PopArt's targets (Hessel et al. 2019)."""


class ValueHead(nn.Module):
    """A single number, trained by squared error. Also the base class of the other heads."""

    output_size = 1
    is_linear = True
    """Whether values are the outputs themselves, so that a linear map of outputs is a linear map of values."""

    def wrap(self, factory: Factory) -> Factory:
        """The factory of a network with the parameters that this head adds; by default the given one."""
        return factory

    def value(self, output: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """output (.., T, B, output_size) -> (.., T, B), of the tasks of `subset`."""
        return output.squeeze(-1)

    def loss(self, output: Tensor, target: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """output (.., T, B, output_size), target (T, B) -> the loss of each output, (.., T, B)."""
        return (output.squeeze(-1) - target).square()

    def observe(self, target: Tensor, subset: TaskSubset, networks: Iterable[Any]) -> None:
        """Update statistics with targets (T, B), before the losses of an update. May rescale the networks' outputs."""


class Categorical(ValueHead):
    """The mean of a distribution over K bins, trained by cross-entropy with the target's projection onto them."""

    is_linear = False

    def __init__(self, centers: Tensor, edges: Tensor) -> None:
        super().__init__()
        self.output_size = len(centers)
        dtype = torch.get_default_dtype()
        self.centers = nn.Buffer(centers.to(dtype), persistent=False)
        self.edges = nn.Buffer(edges.to(dtype), persistent=False)

    def value(self, output: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return (output.softmax(-1) * self.centers).sum(-1)

    def loss(self, output: Tensor, target: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return -(self.project(target) * output.log_softmax(-1)).sum(-1)

    def project(self, target: Tensor) -> Tensor:
        """Targets (..,) -> probabilities of the bins (.., K)."""
        raise NotImplementedError


class TwoHot(Categorical):
    """Projects a target onto its two nearest bins, weighted so that their mean is the target.

    Centres b_1 = low, .., b_K = high; for y in [b_k, b_(k+1)] p_(k+1) = (y − b_k) / (b_(k+1) − b_k) = 1 − p_k
    (Bellemare et al. 2017; Hafner et al. 2023, "Mastering Diverse Domains through World Models", Eq. 9).
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        centers = torch.linspace(low, high, bins, dtype=torch.float64)
        super().__init__(centers, centers)

    def project(self, target: Tensor) -> Tensor:
        target = target.clamp(self.edges[0], self.edges[-1]).unsqueeze(-1)
        passed = ((target - self.edges[:-1]) / (self.edges[1:] - self.edges[:-1])).clamp(0, 1)
        return F.pad(passed, (1, 0), value=1.0) - F.pad(passed, (0, 1), value=0.0)


class HLGauss(Categorical):
    """Projects a target onto all bins: each gets the mass of a Gaussian around the target within the bin.

    p_k ∝ Φ((e_(k+1) − y) / σ) − Φ((e_k − y) / σ) with edges e_1 = low, .., e_(K+1) = high and σ = 0.75 bin widths
    (Imani & White 2018; Farebrother et al. 2024, "Stop Regressing", Eq. 3.2). The mean is nearly y, except near the
    ends of the support.
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        super().__init__((edges[:-1] + edges[1:]) / 2, edges)
        self._scale = 1 / (math.sqrt(2) * SMOOTHING * (high - low) / bins)

    def project(self, target: Tensor) -> Tensor:
        target = target.clamp(self.centers[0], self.centers[-1]).unsqueeze(-1)
        passed = torch.erf((self.edges - target) * self._scale)
        return passed.diff(dim=-1) / (passed[..., -1:] - passed[..., :1])


def symlog(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    return x.sign() * x.abs().expm1()


class Symlog(ValueHead):
    """Trains another head on symlog(y) = sign(y) log(1 + |y|) (Hafner et al. 2023); values are symexp of its values.

    A distribution's value is thus symexp of its mean, as in MuZero and TD-MPC2. DreamerV3 takes the mean of symexp,
    which needs output layers that start at zero, since otherwise the outermost bins outweigh all others. With noisy
    targets of one sign, the values of this class are too small in magnitude.
    """

    is_linear = False

    def __init__(self, head: ValueHead) -> None:
        super().__init__()
        self.head, self.output_size = head, head.output_size

    def value(self, output: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return symexp(self.head.value(output, subset))

    def loss(self, output: Tensor, target: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return self.head.loss(output, symlog(target), subset)


class PopArt(ValueHead):
    """Trains another head on (y − μ) / σ, with the running mean μ and standard deviation σ of each task's targets.

    van Hasselt et al. 2016, "Learning values across many orders of magnitude"; with statistics of each task: Hessel et
    al. 2019, "Multi-task Deep Reinforcement Learning with PopArt". A network's output n gives the value σ n + μ, which
    stays the same when the statistics change. To this end the papers rescale the weights of the last layer, which here
    may be shared between tasks. So every task owns a scale a and a shift b behind the network's output f(s):
    n = a f(s) + b. They start at (1, 0), are trained with the network, and are rescaled: a ← a σ/σ',
    b ← (σ b + μ − μ') / σ'. This works for every architecture and ensemble. The first batch sets the statistics and
    rescales nothing, since nothing has been learned yet.

    A distribution's mean cannot be rescaled through its logits. For such a head only the targets are normalised, so its
    values change whenever the statistics do.

    With `largest`, σ never falls: a batch moves it only if this makes it larger. Otherwise a task whose returns become
    nearly constant has a small σ and so a large a, and its gradients of the shared parameters outweigh those of all
    others.
    """

    def __init__(self, head: ValueHead, num_tasks: int, rate: float, largest: bool = False) -> None:
        super().__init__()
        self.head, self.rate, self.largest, self.output_size = head, rate, largest, head.output_size
        self.mean = nn.Buffer(torch.zeros(num_tasks, dtype=torch.float64))
        self.variance = nn.Buffer(torch.ones(num_tasks, dtype=torch.float64))
        self.count = nn.Buffer(torch.zeros(num_tasks, dtype=torch.float64))

    @property
    def deviation(self) -> Tensor:
        """σ, (T,)."""
        return self.variance.sqrt().clamp(MIN_DEVIATION, MAX_DEVIATION)

    def wrap(self, factory: Factory) -> Factory:
        if not self.head.is_linear:
            return factory
        return lambda code: nn.Sequential(factory(code), owned(FiLM(self.output_size)))

    def _statistics(self, subset: TaskSubset, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """μ and σ of the batch's tasks, (T, 1) each."""
        found = torch.stack([self.mean, self.deviation], -1)
        mean, deviation = subset.gather(found).to(dtype).split(1, -1)
        return mean, deviation

    def value(self, output: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        mean, deviation = self._statistics(subset, output.dtype)
        return torch.addcmul(mean, self.head.value(output, subset), deviation)

    def loss(self, output: Tensor, target: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        mean, deviation = self._statistics(subset, output.dtype)
        return self.head.loss(output, (target - mean) / deviation, subset)

    @torch.no_grad()
    def observe(self, target: Tensor, subset: TaskSubset, networks: Iterable[Any]) -> None:
        """Move μ and σ towards those of the targets, and rescale the networks so that values stay the same.

        With β = `rate`, a task's n-th batch has the weight β / (1 − (1 − β)ⁿ), so initial statistics have no influence.
        """
        before, deviation, is_first = self.mean.clone(), self.deviation, self.count == 0
        least = torch.where(is_first, 0.0, self.variance) if self.largest else None
        count = subset.gather(self.count) + 1
        share = (self.rate / (1 - (1 - self.rate) ** count)).clamp(max=1)  # the first, 1, would be rounded beyond 1
        merge(self.mean, self.variance, target.double(), share, subset)
        subset.write(self.count, count)
        if least is not None:
            self.variance.clamp_(min=least)
        if not self.head.is_linear:
            return
        scale = torch.where(is_first, 1.0, deviation / self.deviation)
        shift = torch.where(is_first, 0.0, (before - self.mean) / self.deviation)
        for network in networks:
            for parameter in (network.own[_SCALE], network.own[_SHIFT]):
                parameter.mul_(like(scale.to(parameter.dtype), parameter))
            network.own[_SHIFT].add_(like(shift.to(parameter.dtype), network.own[_SHIFT]))


_SCALE, _SHIFT = "1/scale", "1/shift"
"""The parameters that `PopArt.wrap` adds, as `TaskNetwork.own` names them."""
_KINDS = {"scalar": None, "two_hot": TwoHot, "hl_gauss": HLGauss}


@dataclass
class ValueConfig(AgentConfig):
    value_head: str = option("scalar", tuple(_KINDS))
    """The critics' output: a number trained by squared error (scalar), or a distribution over bins trained by
    cross-entropy with the two bins nearest to the target (two_hot) or with a Gaussian around it (hl_gauss)."""
    bins: int = option(101, "2 or more")
    """K: number of bins of a distribution."""
    support: list[float] = field(default_factory=lambda: [-10.0, 10.0])
    """The lowest and the highest value of the bins: their outermost centres (two_hot) or edges (hl_gauss). Targets are
    clipped to the outermost centres. With `symlog`, both values are on its scale; with `popart`, they are standard
    deviations from the mean."""
    symlog: bool | None = None
    """Whether critics learn sign(y) log(1 + |y|) of targets y. If not given, distributions without `popart` do."""
    popart: bool = False
    """Whether critics learn targets normalised with the running mean and standard deviation of each task's targets."""
    popart_rate: float = option(3e-4, "in (0, 1]")
    """Weight of a new batch in the running statistics of `popart`."""
    popart_scale: str = option("present", ("present", "largest"))
    """Standard deviation by which `popart` divides targets: the running one (present), or one that batches can only
    raise (largest). The latter keeps gradients small for tasks whose returns hardly vary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = len(self.support) == 2 and self.support[0] < self.support[1]
        check(ordered, "agent.support", "two numbers, the lower first", self.support)
        both = self.popart and bool(self.symlog)
        check(not both, "agent.symlog", "false with agent.popart, which sets the scale by itself", self.symlog)


def build_head(config: ValueConfig, num_tasks: int) -> ValueHead:
    """The head that the options describe."""
    kind = _KINDS[config.value_head]
    head = ValueHead() if kind is None else kind(*config.support, config.bins)
    if config.popart:
        return PopArt(head, num_tasks, config.popart_rate, config.popart_scale == "largest")
    use_symlog = kind is not None if config.symlog is None else config.symlog
    return Symlog(head) if use_symlog else head
