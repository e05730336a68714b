"""Grasping one of several objects on a cluttered table, in a source and a target domain (Fang et al. 2018)"""

from __future__ import annotations

from mtrl.envs.clutter.suite import ClutterSuite, Config


def build(config: Config) -> ClutterSuite:
    return ClutterSuite(config)


__all__ = ["ClutterSuite", "Config", "build"]
