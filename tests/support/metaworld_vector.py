"""Meta-World's vector environments, small ones."""

from __future__ import annotations

from typing import Any

import gymnasium

TASKS = ["reach-v3", "push-v3", "drawer-close-v3"]
make: Any = gymnasium.make_vec


def custom(**options: Any) -> Any:
    return make("mtrl/custom-mt-envs-v3", envs_list=TASKS, threads=1, **options)
