"""The Auto-λ paper's ten RLBench tasks, played live if CoppeliaSim, PyRep and RLBench are installed.

Stored demonstrations can be read, cached and used for training without them. Collecting demonstrations and evaluating
need them.
"""

from mtrl.envs.rlbench.suite import Config, RLBenchSuite, build

__all__ = ["Config", "RLBenchSuite", "build"]
