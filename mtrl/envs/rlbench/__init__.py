"""The Auto-λ paper's ten RLBench tasks, played live if CoppeliaSim, PyRep and RLBench are installed.

Demonstrations on disk, caches and training do not need these; collecting and evaluating do.
"""

from mtrl.envs.rlbench.suite import Config, RLBenchSuite, build

__all__ = ["Config", "RLBenchSuite", "build"]
