"""Where gradients meet: weightings, surgery, diagnostics and the one optimiser step."""

from mtrl.gradients.base import Context, Diagnostic, Surgery, Weighting
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.methods import Methods
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

__all__ = [
    "DIAGNOSTICS",
    "SURGERIES",
    "WEIGHTINGS",
    "Context",
    "Diagnostic",
    "Methods",
    "MultiTaskOptimizer",
    "Surgery",
    "Weighting",
]
