"""Training loops, one per file, each with its trainer. They know neither benchmarks nor gradient methods."""

from mtrl.core.registry import Registry

TRAININGS = Registry("training", __name__, makes="mtrl.training.trainer.Trainer")
