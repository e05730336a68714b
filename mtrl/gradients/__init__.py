"""Where gradients meet: weightings, surgery, diagnostics and the one optimiser step."""

from mtrl.gradients.affinities import AFFINITIES
from mtrl.gradients.base import Context, Diagnostic, JacobianSurgery, Regularizer, Surgery, Weighting
from mtrl.gradients.build import build_optimizer
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

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
