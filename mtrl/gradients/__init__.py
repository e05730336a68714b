"""Where gradients meet: weightings, surgery, diagnostics and the one optimiser step."""

from typing import TYPE_CHECKING

from mtrl.core.lazy import lazily
from mtrl.gradients.affinities import AFFINITIES
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

if TYPE_CHECKING:
    from mtrl.gradients.base import Context, Diagnostic, JacobianSurgery, Regularizer, Surgery, Weighting
    from mtrl.gradients.build import build_optimizer
    from mtrl.gradients.optimizer import MultiTaskOptimizer

__all__ = [
    "AFFINITIES",
    "DIAGNOSTICS",
    "SURGERIES",
    "WEIGHTINGS",
    "Context",
    "Diagnostic",
    "JacobianSurgery",
    "MultiTaskOptimizer",
    "Regularizer",
    "Surgery",
    "Weighting",
    "build_optimizer",
]

__getattr__ = lazily(__name__, __all__, "base", "optimizer", "build")
