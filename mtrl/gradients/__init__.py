"""Where gradients meet: weightings, surgery and the one optimiser step."""

from mtrl.gradients.base import Context, JacobianSurgery, Regularizer, Surgery, Weighting
from mtrl.gradients.build import build_optimizer
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

__all__ = [
    "SURGERIES",
    "WEIGHTINGS",
    "Context",
    "JacobianSurgery",
    "MultiTaskOptimizer",
    "Regularizer",
    "Surgery",
    "Weighting",
    "build_optimizer",
]
