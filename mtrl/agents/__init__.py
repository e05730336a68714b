"""Learning algorithms, one per file.

`Config.trainings` lists the training loops that an agent works with, and `Config.specs` the kinds of data.
"""

from mtrl.core.registry import Registry

AGENTS = Registry("agent", __name__)
