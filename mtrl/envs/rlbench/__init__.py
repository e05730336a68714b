"""The Auto-λ paper's ten RLBench tasks, played live if CoppeliaSim, PyRep and RLBench are installed.

Reading or caching stored demonstrations and training on them need none of these. Collecting demonstrations and
evaluating do.
"""

from mtrl.envs.rlbench.suite import Config, RLBenchSuite, build

__all__ = ["Config", "RLBenchSuite", "build"]
