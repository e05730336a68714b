"""Two processes, each with half of every task's batch, take the same steps as one process with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.core.errors import UserError
from mtrl.data.rollout import Rollout
from mtrl.execution.processes import Processes
from mtrl.gradients import DIAGNOSTICS, SURGERIES, WEIGHTINGS, ModuleOptimizer
from tests.support import learners
from tests.support.gradient_toys import Regression, classifier, config, image_batch
from tests.support.process_pairs import together

UPDATES = 3
Found = dict[str, dict[str, Tensor]]
"""case -> name -> value after a few updates"""
REGRESSIONS = [
    *(f"surgery {kind}" for kind in SURGERIES.kinds), *(f"weighting {kind}" for kind in WEIGHTINGS.kinds),
    "estimator finite_difference", "estimator second_order", "watched", "members pcgrad",
]  # fmt: skip
AGENTS = ["sac pcgrad", "sac auto_lambda", "sac popart", "td3 pcgrad", "ppo pcgrad"]
OTHERS = [
    "images pcgrad",
    "shared images cagrad",
    "shared images auto_lambda",
    "images none",
    "module pcgrad",
    "module famo",
]


def named(module: nn.Module, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    return {**parameters, **{f"metric {name}": value.detach().clone() for name, value in metrics.items()}}


def regression(case: str, group: Any) -> dict[str, Tensor]:
    what, _, kind = case.partition(" ")
    weighting: Any = kind if what == "weighting" else "equal"
    if what == "estimator":
        weighting = config(WEIGHTINGS, "auto_lambda", estimator=kind)
    surgery = kind if what in ("surgery", "members") else "pcgrad" if what == "watched" else "none"
    problem = Regression(ensemble=2 if what == "members" else None)
    watching = [DIAGNOSTICS.config_class(k)() for k in DIAGNOSTICS.kinds] if what == "watched" else []
    options: dict[str, Any] = {"sgd": {"lr": 0.02, "momentum": 0.9}, "diagnostics": watching, "max_grad_norm": 1.0}
    if what == "members":
        surgery = config(SURGERIES, kind, per_critic=True)
    method = problem.optimizer(weighting, surgery, process_group=group, **options)
    metrics: dict[str, Tensor] = {}
    for update in range(UPDATES):
        batches = method.processes.share((problem.batch(2 * update), problem.batch(2 * update + 1)))
        extras = {"log_alpha": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)}
        metrics = method.step(problem.losses, *batches, extras=extras)
    return named(problem.network, metrics)


def images(case: str, group: Any) -> dict[str, Tensor]:
    method, shared = case.split()[-1], case.startswith("shared")
    chosen: dict[str, Any] = {"weighting" if method in WEIGHTINGS.kinds else "surgery": method}
    agent = classifier(shared_input=shared, process_group=group, **chosen)
    agent.network.double()
    metrics: dict[str, Tensor] = {}
    for update in range(UPDATES):
        batches = [image_batch(seed, shared) for seed in (update, 100 + update)]
        metrics = agent.update(*(b._replace(images=b.images.double()) for b in batches))
    return named(agent.network, metrics)


def module(case: str, group: Any) -> dict[str, Tensor]:
    """A user's own module: each process computes the losses of its own samples."""
    kind, processes = case.split()[-1], Processes(group)
    torch.manual_seed(processes.rank)  # the first process's parameters count
    model = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)]).double()
    methods: dict[str, Any] = {"surgery": "pcgrad", "weighting": "equal" if kind == "pcgrad" else kind}
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    optimizer = ModuleOptimizer(model, sgd, 2, **methods, process_group=group, generator=generator)
    draw, metrics = torch.Generator().manual_seed(5), dict[str, Tensor]()
    for _ in range(UPDATES):
        x = processes.share(torch.randn(1, 6, 4, generator=draw, dtype=torch.float64))[0]

        def losses(x: Tensor = x) -> list[Tensor]:
            features = model[0](x).tanh()
            return [(model[1](features) - x[:, :1]).square().mean(), (model[2](features) + x[:, :1]).square().mean()]

        metrics = optimizer.step(losses)
    return named(model, metrics)


def learner(case: str, group: Any) -> dict[str, Tensor]:
    kind, method = case.split()
    options: dict[str, Any] = {"popart": True} if method == "popart" else {}
    options |= {"epochs": 2, "minibatches": 2} if kind == "ppo" else {}
    agent = learners.agent("pcgrad" if method == "popart" else method, learner=kind, process_group=group, **options)
    networks = nn.ModuleDict({"actor": agent.actor, "critic": agent.critic})
    if kind == "ppo":
        metrics, _ = agent.learn(rollout(), 0.0)
    else:
        experience, metrics = learners.Experience(agent), {}
        for _ in range(UPDATES):
            metrics = agent.learn(experience.draw, 1)
    temperature = {"log_alpha": agent.log_alpha} if kind == "sac" else {}
    return named(networks, metrics) | {name: value.detach() for name, value in temperature.items()}


def rollout() -> Rollout:
    found, generator = Rollout(learners.T, 8, 2, learners.O, learners.A, torch.device("cpu")), torch.Generator()
    generator.manual_seed(3)
    for value in vars(found).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator))
    for name in ("terminated", "ended"):
        getattr(found, name).copy_((getattr(found, name) > 1).float())
    return found


def everything(group: Any) -> Found:
    made = {case: regression(case, group) for case in REGRESSIONS}
    made |= {case: (module if case.startswith("module") else images)(case, group) for case in OTHERS}
    return made | {case: learner(case, group) for case in AGENTS}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    pytest.importorskip("torchjd", reason="the extra `surgery` is not installed")
    return together(everything, tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("case", [*REGRESSIONS, *OTHERS, *AGENTS])
def test_two_processes_take_the_steps_of_one(case: str, pair: list[Found]) -> None:
    make = regression if case in REGRESSIONS else learner if case in AGENTS else module
    make = images if "images" in case else make
    alone = make(case, None)
    exact = case not in AGENTS  # those compute in float32
    for name, value in alone.items():
        assert torch.equal(pair[0][case][name], pair[1][case][name]) or value.isnan().any(), name
        tolerance: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10} if exact else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(
            pair[0][case][name], value, equal_nan=True, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    processes = Processes()
    processes.count = 2
    with pytest.raises(UserError, match=r"samples of each task in a batch should be a multiple of 2.*Found 5"):
        processes.share((torch.zeros(3, 5), None))


LEAVING = """
import contextlib, sys
from pathlib import Path
import torch
import torch.distributed as dist
from mtrl.gradients import ModuleOptimizer

def threads():
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            name, _, rest = (thread / "stat").read_text().partition(" (")[2].rpartition(") ")
            if not int(rest.split()[6]) & 4:  # the system still lists one that has been joined, marked as exiting
                yield name

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
model = torch.nn.Linear(3, 2)
adam = torch.optim.Adam(model.parameters())
optimizer = ModuleOptimizer(model, adam, num_tasks=2, surgery="pcgrad", process_group=dist.group.WORLD)
optimizer.step(lambda: [*model(torch.ones(4, 3)).square().mean(0)])
print(*(name for name in threads() if "gloo" in name), sep=",")
dist.destroy_process_group()
print(*(name for name in threads() if "gloo" in name), sep=",")
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_no_thread_of_a_group_outlives_it(tmp_path: Path) -> None:
    """Threads that are alive when Python ends can abort the process after all work is done."""
    words = [sys.executable, "-c", LEAVING, str(tmp_path / "meeting")]
    before, after = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\n")[:2]
    assert "gloo" in before and not after
