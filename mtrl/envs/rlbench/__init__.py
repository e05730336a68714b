"""RLBench's ten tasks of the Auto-λ paper, played live where CoppeliaSim, PyRep and RLBench are installed.

Demonstrations on disk, caches and training need none of these; collecting and evaluating do.
"""

from mtrl.envs.rlbench.suite import Config, RLBenchSuite, build

__all__ = ["Config", "RLBenchSuite", "build"]
