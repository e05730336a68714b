"""A run in several processes, one for each GPU: `torchrun --nproc-per-node 2 -m mtrl.cli train ...`.

Every process has all environments and the same random numbers, and computes its share of each update
(`execution.processes`), so that all have the same state. The first process leads: it logs, evaluates and saves, and
tells the others what to do before each step. The others read the run's folder when the first one loads a checkpoint,
and at the end.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from mtrl.core.errors import reading
from mtrl.experiment.config import ExperimentConfig
from mtrl.experiment.parts import Experiment
from mtrl.monitoring import checkpoints
from mtrl.monitoring.interrupt import Interrupts, Stopped
from mtrl.monitoring.random_state import restore_random_state, seed_process
from mtrl.monitoring.run import RunFolder
from mtrl.training.trainer import Trainer

_LONGEST = datetime.timedelta(days=1)
"""How long the others wait at most while the first process evaluates or saves. If it dies, they notice at once."""


class Order(enum.IntEnum):
    """What the first process tells the others to do."""

    END, ADVANCE, RESUME, RESEED = range(4)


def leads() -> bool:
    """Whether this process writes the run's folder, as the only process or the first of several."""
    return not _launched() or int(os.environ["RANK"]) == 0


def _launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class Company:
    """Messages between the processes of a run. With only one process, `tell` and `wait` do nothing."""

    def __init__(self, several: bool = False) -> None:
        self._several = several

    def tell(self, order: Order) -> None:
        """Send an order from the first process to the others."""
        if self._several:
            dist.broadcast(torch.tensor(int(order)), 0)

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self._several:
            dist.barrier()

    def told(self) -> Order:
        """Wait for the next order of the first process."""
        word = torch.tensor(0)
        dist.broadcast(word, 0)
        return Order(int(word))


@contextlib.contextmanager
def joined() -> Iterator[Company]:
    """Join the other processes that torchrun has started. Each uses its own GPU, if there are GPUs."""
    if not _launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Company()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(timeout=_LONGEST)
    company = Company(several=True)
    try:
        yield company
    finally:
        if leads():
            with contextlib.suppress(RuntimeError):  # the others may have ended with the same error
                company.tell(Order.END)
        dist.destroy_process_group()


def take_over(trainer: Trainer, found: checkpoints.Found) -> None:
    """Load a checkpoint into a started trainer and into the process's random generators."""
    with reading(found.path, "one that fits the run's config.yaml", "Checkpoint"):
        trainer.load_state_dict(found.state["trainer"])
        trainer.load_data_state(found.replay)
        restore_random_state(found.state["random"])


def reseed(trainer: Trainer, rollbacks: int) -> None:
    """Make a trainer continue with other random numbers. rollbacks: how often it has rolled back to a checkpoint."""
    trainer.rollbacks = rollbacks
    trainer.reseed()
    seed_process(trainer.stream)


def follow(config: ExperimentConfig, company: Company) -> tuple[Experiment, RunFolder, dict[str, object]]:
    """Take the same steps as the first process until it ends. Returns the same as `session.train`.

    Raises:
        Stopped: the first process ended without a result.
    """
    experiment = Experiment(config)
    seed_process(config.seed)
    trainer, done = experiment.trainer.start(), 0
    with contextlib.closing(trainer), Interrupts():  # after a first signal, this process still follows orders
        while (order := company.told()) is not Order.END:
            if order is Order.ADVANCE:
                trainer.advance()
            elif order is Order.RESEED:
                reseed(trainer, done + 1)
            elif found := checkpoints.newest(experiment.path / "checkpoints"):
                done = trainer.rollbacks
                take_over(trainer, found)
                company.wait()
    folder = RunFolder.load(experiment.path)
    if folder.result is None:
        raise Stopped
    return experiment, folder, folder.result
