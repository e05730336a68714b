"""mtrl bench update: the time of a full SAC update, joint and with surgery, compared with ordinary layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from mtrl.agents import AGENTS
from mtrl.bench.jax_baselines import Updates, jax_updates
from mtrl.bench.peers import matrix_products, naive_pcgrad, torchjd_pcgrad
from mtrl.bench.plain_sac import Backward, PlainSAC, joint
from mtrl.bench.report import interleaved, machine, timed
from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.memory import keep_freed_memory
from mtrl.core.specs import ControlSpec
from mtrl.core.types import Transitions
from mtrl.data.replay import ReplayBuffer
from mtrl.gradients import SURGERIES, WEIGHTINGS, Methods, Surgery
from mtrl.networks import NETWORKS

OBSERVATION, ACTION, WIDTH, DEPTH, BATCH = 39, 4, 400, 3, 128
"""Meta-World's observation and action sizes, and the usual networks and batch per task for MT10 and MT50."""
SUITES = {"mt10": 10, "mt50": 50}
COMPILED = {"joint": "none", "pcgrad": "pcgrad"}
"""Name of an update that is also measured compiled -> its method."""


def filled_replay(num_tasks: int, device: str = "cpu") -> ReplayBuffer:
    """A replay buffer with 2,000 random transitions of each task."""
    generator = torch.Generator().manual_seed(0)
    replay = ReplayBuffer(num_tasks, 2000, OBSERVATION, ACTION, device)
    shape = (num_tasks, 2000)
    replay.add(
        Transitions(
            torch.randn(*shape, OBSERVATION, generator=generator),
            torch.rand(*shape, ACTION, generator=generator) * 2 - 1,
            torch.rand(shape, generator=generator),
            torch.randn(*shape, OBSERVATION, generator=generator),
            torch.zeros(shape),
        )
    )
    return replay


def make_agent(num_tasks: int, method: str, device: str = "cpu", width: int = WIDTH, **options: Any) -> Any:
    """A multi-head SAC agent. method: the name of a surgery or a weighting; options: further options of the agent."""
    torch.manual_seed(0)
    return AGENTS.build(
        AGENTS.config_class("sac")(batch_size=BATCH, **options),
        network=NETWORKS.config_class("multi_head")(width=width, depth=DEPTH),
        methods=Methods.of(method),
        spec=ControlSpec(tuple(map(str, range(num_tasks))), OBSERVATION, ACTION, horizon=500),
        device=device,
    )


def full_update(
    num_tasks: int, method: str = "none", solver: list[float] | None = None, width: int = WIDTH
) -> Callable[[], Any]:
    """A function that makes one full update: sampling, critics, actor, temperatures, targets.

    solver: if given, the seconds of each call of a Gramian surgery's solver are appended to this list, alternating
    between critics and actor.
    """
    agent, replay = make_agent(num_tasks, method, width=width), filled_replay(num_tasks)
    count = 2 if agent.needs_second_batch else 1
    for part in (agent.critic_optimizer, agent.actor_optimizer):
        if solver is not None and type(part.surgery).coefficients is not Surgery.coefficients:
            part.surgery.coefficients = timed(part.surgery.coefficients, solver)
    return lambda: agent.update(*[replay.sample(BATCH, agent.generator) for _ in range(count)])


def updates(
    num_tasks: int, method: str, count: int = 1, device: str = "cpu", width: int = WIDTH, **options: Any
) -> Callable[[], Any]:
    """A function that makes `count` full updates and waits until the device has finished.

    It raises `UserError` if the updates cannot be compiled or captured as asked.

    options: options of the agent, such as `execution` and `precision`.
    """
    agent, replay = make_agent(num_tasks, method, device, width=width, **options), filled_replay(num_tasks, device)
    batches = 2 if agent.needs_second_batch else 1

    def draw() -> list[Transitions]:
        return [replay.sample(BATCH, agent.generator) for _ in range(batches)]

    def call() -> None:
        agent.learn(draw, count)
        if agent.fell_back:
            raise expected("Updates to be timed", agent.execution, "updates that run in a slower way (see above)")
        if device != "cpu":
            torch.cuda.synchronize()

    return call


def _plain(num_tasks: int, width: int, backward: Backward = joint) -> Callable[[], Any]:
    agent, replay = PlainSAC(num_tasks, OBSERVATION, ACTION, width, DEPTH, backward), filled_replay(num_tasks)
    return lambda: agent.update(replay.sample(BATCH))


def _peers(num_tasks: int, width: int) -> dict[str, Callable[[], Any]]:
    """The same update with other implementations of PCGrad."""
    torchjd = torchjd_pcgrad()
    peers = {"naive_pcgrad": _plain(num_tasks, width, naive_pcgrad)}
    peers |= {"torchjd_pcgrad": _plain(num_tasks, width, torchjd)} if torchjd is not None else {}
    return peers


def methods() -> list[str]:
    """The names of all surgeries and weightings except `none` and `equal`."""
    return [kind for registry in (SURGERIES, WEIGHTINGS) for kind in registry.kinds if kind not in ("none", "equal")]


def measure(
    quick: bool = False,
    chosen: Sequence[str] = ("pcgrad",),
    suites: Sequence[str] = tuple(SUITES),
    repetitions: int | None = None,
    compiled: bool = False,
    device: str = "cpu",
    width: int = WIDTH,
    jax_baselines: Path | None = None,
    jax_python: str | None = None,
) -> dict[str, Any]:
    """Milliseconds of a full SAC update with multi-head networks, and their ratio to the faster of `plain` and `joint`.

    - plain: the update in ordinary layers on (T·B) rows, implemented independently of the toolkit as a reference.
    - joint: the toolkit's update without surgery; products: its matrix products alone.
    - naive_pcgrad: T backward passes, and projections of full gradient vectors.
    - torchjd_pcgrad: torchjd's implementation, where torchjd is installed.
    - jax_joint, jax_pcgrad: the JAX baselines' updates, where a checkout is given.

    `solver_ms` is the time in which a Gramian surgery computes its coefficients, and `ratio_without` is the ratio
    without this time. On a GPU, rows and ratios differ; see `gpu_rows`.

    Args:
        chosen: surgeries and weightings to measure.
        repetitions: how often each update but the two slow peers is timed; by default 50 times, with `quick` 5 times.
        compiled: also measure joint training and PCGrad with `agent.execution=compiled`. On a GPU, every method is
            measured in all ways, whether this is given or not.
        width: hidden units of each layer of the networks.
        jax_baselines: a checkout of metaworld-algorithms; requires device="cpu".
        jax_python: the Python interpreter that has JAX; this one if not given.

    Raises:
        UserError: a method or suite is unknown, a number is not positive, the JAX baselines cannot be run, or updates
            cannot be compiled.
    """
    unknown = set(chosen) - set(methods())
    check(not unknown, "--methods", f"among {', '.join(methods())}", ", ".join(sorted(unknown)))
    check(repetitions is None or repetitions >= 1, "--repetitions", "a positive integer", repetitions)
    check(jax_python is None or jax_baselines is not None, "--jax-python", "given with --jax-baselines", jax_python)
    check(width >= 1, "--width", "a positive integer", width)
    check(set(suites) <= set(SUITES), "--suites", f"among {', '.join(SUITES)}", ", ".join(suites))
    check(jax_baselines is None or device == "cpu", "--device", "cpu where --jax-baselines is given", device)
    keep_freed_memory()
    repetitions, few = repetitions or (5 if quick else 50), 1 if quick else 5
    sizes = {"observation": OBSERVATION, "action": ACTION, "batch": BATCH, "width": width, "depth": DEPTH}
    rows, versions = [], dict[str, Any]()
    for suite in suites:
        if device != "cpu":
            rows += gpu_rows(suite, chosen, repetitions, device, width)
            continue
        with jax_updates(jax_baselines, jax_python or sys.executable, tasks=SUITES[suite], **sizes) as (rivals, found):
            versions |= found
            rows += cpu_rows(suite, chosen, repetitions, few, compiled, width, rivals)
    facts = {"network": "multi_head", "width": width, "depth": DEPTH, "batch_per_task": BATCH}
    return {"bench": "update", **facts, **versions, "machine": machine(), "rows": rows}


def cpu_rows(
    suite: str, chosen: Sequence[str], repetitions: int, few: int, compiled: bool, width: int, rivals: Updates
) -> list[dict[str, Any]]:
    """The rows of a suite on a CPU. `rivals` alternate with the toolkit's updates; peers run at most `few` times."""
    tasks = SUITES[suite]
    solvers: dict[str, list[float]] = {method: [] for method in chosen}
    ours = {method: full_update(tasks, method, seconds, width) for method, seconds in solvers.items()}
    calls = {"plain": _plain(tasks, width), "joint": full_update(tasks, width=width), **ours}
    if compiled:
        calls |= {f"{m}_compiled": updates(tasks, k, width=width, execution="compiled") for m, k in COMPILED.items()}
    calls |= {"products": matrix_products(tasks, OBSERVATION, ACTION, width, DEPTH, BATCH), **rivals}
    found = _rows(suite, calls, _peers(tasks, width), repetitions, few if tasks <= 10 else min(few, 2))
    return [row | _solver_columns(row, solvers.get(row["update"], [])) for row in found]


def gpu_rows(
    suite: str, chosen: Sequence[str], repetitions: int, device: str, width: int = WIDTH, count: int = 20
) -> list[dict[str, Any]]:
    """Milliseconds per update on a GPU: eagerly, captured in each precision, and compiled.

    Methods that work on the host are only measured eagerly. Each measurement is of `count` updates without a
    synchronisation in between. Ratios are to compiled joint training.
    """
    calls = {}
    captured = [("captured", precision) for precision in ("tf32", "float32", "bfloat16")]
    for method in ("none", *chosen):
        on_host = make_agent(SUITES[suite], method, width=width).critic_optimizer.host_bound
        for kind, precision in [("plain", "tf32"), *([] if on_host else [*captured, ("compiled", "tf32")])]:
            options = {"execution": kind, "precision": precision, "device": device, "width": width}
            calls[method, kind, precision] = updates(SUITES[suite], method, count, updates_per_launch=count, **options)
    names = {" ".join(key): call for key, call in calls.items()}
    seconds = {name: [s / count for s in values] for name, values in interleaved(names, repetitions).items()}
    base = median(seconds["none compiled tf32"])
    return [_row(suite, name, values, base) for name, values in seconds.items()]


def _rows(
    suite: str, calls: dict[str, Callable[[], Any]], peers: dict[str, Callable[[], Any]], repetitions: int, few: int
) -> list[dict[str, Any]]:
    """Time `calls` in turn, `repetitions` times; then the slow peers in turn with the joint update, `few` times.

    The peers' times are scaled by the ratio of the joint update's two medians, to correct for drift of the machine.
    """
    seconds = interleaved(calls, repetitions)
    base = min(median(seconds["plain"]), median(seconds["joint"]))
    found = [_row(suite, name, values, base) for name, values in seconds.items()]
    again = interleaved({"joint": calls["joint"], **peers}, few, warmup=0)
    later = median(again.pop("joint"))
    scale = median(seconds["joint"]) / later
    return found + [_row(suite, name, [scale * v for v in values], base) for name, values in again.items()]


def _solver_columns(row: dict[str, Any], seconds: list[float]) -> dict[str, float]:
    """The columns for the time of a method's solver, which an update calls twice; {} for methods without a solver."""
    if not seconds:
        return {}
    calls = seconds[-2 * row["repetitions"] :]
    each = 1e3 * median(map(sum, zip(calls[::2], calls[1::2], strict=True)))
    return {"solver_ms": each, "ratio_without": row["ratio"] * (1 - each / row["ms"])}


def _row(suite: str, name: str, seconds: list[float], base: float) -> dict[str, Any]:
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    row = {"suite": suite, "update": name, "ms": 1e3 * median(seconds), "quartiles": [1e3 * low, 1e3 * high]}
    return row | {"ratio": median(seconds) / base, "repetitions": len(seconds)}
