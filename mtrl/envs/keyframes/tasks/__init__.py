"""The ten tasks, in the order of the Auto-λ paper's table."""

from mtrl.envs.keyframes.tasks.base import Task, Waypoint
from mtrl.envs.keyframes.tasks.lifting import PickAndLift, PickUpCup, TakeUmbrellaOut
from mtrl.envs.keyframes.tasks.placing import PutKnifeOnChoppingBoard, StackWine
from mtrl.envs.keyframes.tasks.reaching import PushButton, ReachTarget
from mtrl.envs.keyframes.tasks.safes import PutMoneyInSafe, TakeMoneyOutSafe
from mtrl.envs.keyframes.tasks.sliding import SlideBlock

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ReachTarget(),
        PushButton(),
        PickAndLift(),
        PickUpCup(),
        PutKnifeOnChoppingBoard(),
        TakeMoneyOutSafe(),
        PutMoneyInSafe(),
        TakeUmbrellaOut(),
        StackWine(),
        SlideBlock(),
    )
}

__all__ = ["TASKS", "Task", "Waypoint"]
