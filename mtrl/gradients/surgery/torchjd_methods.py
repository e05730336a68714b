"""The methods that torchjd (Quinton & Rey, MIT licence) computes from a Gramian, behind one adapter.

Except for PCD, the Gramian is first divided by the mean of the tasks' squared gradient norms, so that torchjd's
constants have the same meaning at every scale. The methods run in float64 on the CPU, so an update on a GPU waits for
them. torchjd's weights average or sum over tasks, depending on the method; here they are scaled so that identical
gradients give the plain update. CAGrad is the exception: it gives 1 + c times the plain update, as in its paper. PCD's
result has T times the norm of the primary gradient, or is zero if the projection onto its constraints is zero. If the
constraints contradict each other, torchjd takes the primary gradient. All coefficients are 1 for a single task, and if
all gradients are zero or one is not finite. MGDA has a solver of our own, since torchjd's stops before it reaches the
solution. IMTL-G and Aligned-MTL may give a task a negative weight, and IMTL-G's weights are unbounded where gradients
nearly cancel; both are properties of the methods.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtrl.core.config import option
from mtrl.core.errors import UserError, expected, missing
from mtrl.gradients.base import GramianConfig, Surgery
from mtrl.gradients.surgery.torchjd_solvers import OnRoot, ShortestVector, WithoutZeros, openblas


@dataclass
class TorchJDConfig(GramianConfig):
    """A method's options, and how the adapter builds torchjd's module and saves its state."""

    kind: str = ""
    weighting: ClassVar[str] = ""
    """The name of torchjd's class, for a method without options."""
    normalized: ClassVar[bool] = True
    """Whether the Gramian is first divided by the mean of its diagonal."""
    random: ClassVar[bool] = False
    """Whether the method draws random numbers."""
    stateful: ClassVar[bool] = False
    """Whether the method keeps numbers for each task between calls, so that the tasks must stay the same."""

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        """Build the module that maps a Gramian (T, T) to weights (T,) from the package `torchjd.aggregation`."""
        return getattr(aggregation, self.weighting)()

    def scale(self, num_tasks: int) -> float:
        """The factor by which torchjd's weights are multiplied: T for a method that averages over tasks."""
        return float(num_tasks)

    def state(self, module: Any) -> dict[str, Tensor]:
        """What the module keeps between calls; {} if nothing yet. torchjd's own `state_dict` cannot be loaded again."""
        return {}

    def restore(self, module: Any, state: dict[str, Tensor]) -> None:
        """Load a result of `state` that is not empty into a new module."""


@dataclass
class CAGrad(TorchJDConfig):
    """CAGrad: the best improvement of the worst task near the average gradient (Liu et al. 2021, Algorithm 1)."""

    kind: str = "cagrad"
    c: float = option(0.4, "0 or more")
    """The radius of the ball around the average gradient, as a share of its norm; 0 for the average itself."""

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        return aggregation.CAGradWeighting(c=self.c)


@dataclass
class MGDA(TorchJDConfig):
    """MGDA: the shortest vector in the gradients' convex hull, solved exactly (Sener & Koltun 2018, Eq. 3)."""

    kind: str = "mgda"

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        return ShortestVector()


@dataclass
class IMTLG(TorchJDConfig):
    """IMTL-G: the vector with equal projections on all gradients (Liu et al. 2021, "Towards Impartial ...")."""

    kind: str = "imtl_g"
    weighting: ClassVar[str] = "IMTLGWeighting"


@dataclass
class UPGrad(TorchJDConfig):
    """UPGrad: each gradient projected onto the cone where no task loses, then averaged (Quinton & Rey 2024)."""

    kind: str = "upgrad"
    weighting: ClassVar[str] = "UPGradWeighting"


@dataclass
class DualProj(TorchJDConfig):
    """DualProj: the average gradient projected onto the cone where no task loses (Lopez-Paz & Ranzato 2017, Eq. 11)."""

    kind: str = "dualproj"
    weighting: ClassVar[str] = "DualProjWeighting"


@dataclass
class AlignedMTL(TorchJDConfig):
    """Aligned-MTL: gradients made orthogonal and equally long (Senushkin et al. 2023, Algorithm 1)."""

    kind: str = "aligned_mtl"
    weighting: ClassVar[str] = "AlignedMTLWeighting"


@dataclass
class FairGrad(TorchJDConfig):
    """FairGrad: α-fair shares of the improvement (Ban & Ji 2024, Eq. 4)."""

    kind: str = "fairgrad"
    alpha: float = option(1.0, "positive")
    """α: 1 for proportional fairness; the larger, the closer to max-min fairness."""

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        return WithoutZeros(aggregation.FairGradWeighting(alpha=self.alpha))

    def scale(self, num_tasks: int) -> float:
        return num_tasks ** (self.alpha / (self.alpha + 1))


@dataclass
class GradVac(TorchJDConfig):
    """GradVac: gradients turned until their cosines reach the running means (Wang et al. 2021)."""

    kind: str = "gradvac"
    beta: float = option(0.5, "in [0, 1]")
    """The share of the newest cosine in the running mean."""
    random: ClassVar[bool] = True
    stateful: ClassVar[bool] = True

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        return aggregation.GradVacWeighting(beta=self.beta)

    def scale(self, num_tasks: int) -> float:
        return 1.0

    def state(self, module: Any) -> dict[str, Tensor]:
        return {} if module._phi_t is None else {"cosines": module._phi_t}

    def restore(self, module: Any, state: dict[str, Tensor]) -> None:
        module._phi_t = state["cosines"].cpu().clone()
        module._state_key = (len(module._phi_t), module._phi_t.dtype)


@dataclass
class PCD(TorchJDConfig):
    """PCD: one primary task's gradient, with progress for every other task (Priority-Constrained Descent, 2026)."""

    kind: str = "pcd"
    primary: list[str] = field(default_factory=list)
    """The name or index of the one primary task."""
    tau: float = option(0.02, "in [0, 1]")
    """τ: every other task gets at least this share of the progress that a step along its own gradient would give,
    unless these demands contradict each other."""
    beta: float = option(0.999, "in [0, 1)")
    """Decay of the running mean of the squared gradient norms."""
    normalized: ClassVar[bool] = False  # it divides by running means of the norms; with ε = 0 the scale does not matter
    stateful: ClassVar[bool] = True
    requires_primary: ClassVar[bool] = True
    primary_limit: ClassVar[int | None] = 1

    def primary_tasks(self) -> Sequence[str]:
        return self.primary

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        return aggregation.PCDWeighting(tau=self.tau, beta=self.beta, eps=0.0)

    def state(self, module: Any) -> dict[str, Tensor]:
        return {} if module._sq_norm_ema is None else {"squares": module._sq_norm_ema, "steps": module._n_steps}

    def restore(self, module: Any, state: dict[str, Tensor]) -> None:
        module._sq_norm_ema, module._n_steps = state["squares"].cpu().clone(), state["steps"].cpu().clone()
        module._state_key = len(module._sq_norm_ema)


@dataclass
class NashMTL(TorchJDConfig):
    """Nash-MTL: the Nash bargaining solution, with balanced relative gains (Navon et al. 2022, Algorithm 1)."""

    kind: str = "nash_mtl"
    every: int = option(1, "a positive integer")
    """The number of updates from one solution to the next. In between, the weights do not change."""
    iterations: int = option(20, "a positive integer")
    """The maximum number of solver iterations."""
    stateful: ClassVar[bool] = True

    def method(self, aggregation: Any, num_tasks: int) -> nn.Module:
        # No clipping here: the agent's max_grad_norm does that.
        method = aggregation.NashMTL(num_tasks, max_norm=0.0, update_weights_every=self.every)
        method.optim_niter = self.iterations
        return OnRoot(method.weighting)

    def scale(self, num_tasks: int) -> float:
        return 1.0

    def state(self, module: Any) -> dict[str, Tensor]:
        inner = module.weighting
        return {"weights": torch.tensor(inner.prvs_alpha), "steps": torch.tensor(inner.step)} if inner.step else {}

    def restore(self, module: Any, state: dict[str, Tensor]) -> None:
        inner = module.weighting
        inner.prvs_alpha, inner.step = state["weights"].cpu().numpy().copy(), state["steps"].item()
        inner._init_optim_problem()


class TorchJD(Surgery):
    """Coefficients by one of torchjd's Gramian weightings."""

    on_host = True

    def __init__(self, config: TorchJDConfig, module: nn.Module, num_tasks: int) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale(num_tasks)
        self.takes_some_tasks = not (config.stateful or config.requires_primary)
        self._module = [module]  # in a list: torchjd cannot load what its state_dict saves

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        if not self.config.random:
            return None
        return torch.randint(2**31, (), generator=generator, device=device)

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        host = gramian.detach().double().cpu()
        size = host.diagonal().mean()
        if len(host) == 1 or size <= 0 or not host.isfinite().all():
            return torch.ones_like(gramian.diagonal())
        # A primary task is moved to the front, where PCD expects it; without one, the order does not change.
        order = primary.cpu().logical_not().to(torch.int8).argsort(stable=True)
        host = (host / size if self.config.normalized else host)[order][:, order]
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), openblas().limit(limits=1):
            warnings.simplefilter("ignore")  # solvers warn about each inaccurate solution
            if noise is not None:
                # torch.manual_seed would also seed CUDA's generators, which this block does not restore
                torch.default_generator.manual_seed(int(noise))
            weights = self._module[0](host)
        return (self.scale * weights[order.argsort()]).to(gramian)

    def get_extra_state(self) -> dict[str, Tensor]:
        return self.config.state(self._module[0])

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        if state:
            self.config.restore(self._module[0], state)


CONFIGS: dict[str, type[TorchJDConfig]] = {
    "cagrad": CAGrad,
    "mgda": MGDA,
    "imtl_g": IMTLG,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "aligned_mtl": AlignedMTL,
    "fairgrad": FairGrad,
    "gradvac": GradVac,
    "pcd": PCD,
    "nash_mtl": NashMTL,
}


def build(config: TorchJDConfig, *, num_tasks: int) -> Surgery:
    """The method's surgery. Raises UserError if torchjd or the method's solver is not installed."""
    try:
        from torchjd import aggregation

        module = config.method(aggregation, num_tasks)
        openblas()
    except ImportError as error:
        raise _not_installed(config.kind, str(error).splitlines()[0].rstrip(".")) from error
    return TorchJD(config, module, num_tasks)


def _not_installed(kind: str, found: str) -> UserError:
    if "ecos" in found and sys.version_info >= (3, 13):
        how = "pip install 'ecos>=2.0.14', which needs a C compiler (the extra `surgery` leaves it out on Python 3.13)"
        return expected(f"Surgery {kind}", f"used with ecos installed: {how}", found)
    return missing(f"Surgery {kind}", "torchjd and its solver", "surgery", found)
