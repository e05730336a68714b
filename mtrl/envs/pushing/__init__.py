"""Goal-conditioned pushing: a puck on Meta-World's table, 200 pairs of start and place (Mint paper, Sec. 6.3)"""

from __future__ import annotations

from mtrl.envs.pushing import gym_env
from mtrl.envs.pushing.suite import Config, PushingSuite

__all__ = ["Config", "PushingSuite", "build"]

gym_env.register()


def build(config: Config) -> PushingSuite:
    return PushingSuite(config)
