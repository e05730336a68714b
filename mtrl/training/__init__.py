"""Training loops, one per file, each with its trainer. They do not depend on benchmarks or gradient methods."""

from mtrl.core.registry import Registry

TRAININGS = Registry("training", __name__, makes="mtrl.training.trainer.Trainer")
