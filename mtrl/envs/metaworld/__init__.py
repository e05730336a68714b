"""Meta-World's tasks, and an engine that steps all of them at once.

The formulas and constants of observations and rewards are Meta-World's (MIT, see NOTICE).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mtrl.envs import simulator  # noqa: F401 (before metaworld)
from mtrl.envs.metaworld import vector
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite


@dataclass
class _MT1(Config):
    """One Meta-World task, the single-task baseline: task=reach-v3"""

    kind: str = "mt1"
    tasks: list[str] = field(default_factory=lambda: ["reach-v3"], kw_only=True)


@dataclass
class _MT10(Config):
    """Meta-World's ten tasks (Yu et al. 2019)"""

    kind: str = "mt10"


@dataclass
class _MT25(Config):
    """Meta-World's twenty-five tasks"""

    kind: str = "mt25"


@dataclass
class _MT50(Config):
    """All fifty Meta-World tasks"""

    kind: str = "mt50"


@dataclass
class _Custom(Config):
    """Meta-World tasks of your own choice: 'tasks=[reach-v3,push-v3]'"""

    kind: str = "custom"


CONFIGS = {"mt1": _MT1, "mt10": _MT10, "mt25": _MT25, "mt50": _MT50, "custom": _Custom}


vector.register()


def build(config: Config) -> MetaWorldSuite:
    return MetaWorldSuite(config)
