"""Ten manipulation tasks after RLBench's, in MuJoCo, with experts that demonstrate them; not comparable with RLBench"""

from __future__ import annotations

from mtrl.envs.keyframes import gym_env
from mtrl.envs.keyframes.suite import Config, KeyframesSuite

gym_env.register()


def build(config: Config) -> KeyframesSuite:
    return KeyframesSuite(config)


__all__ = ["Config", "KeyframesSuite", "build"]
