"""Where gradients meet: weightings, surgery and the one optimiser step."""

from mtrl.gradients.base import Context, Surgery, Weighting
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

__all__ = ["SURGERIES", "WEIGHTINGS", "Context", "MultiTaskOptimizer", "Surgery", "Weighting"]
