"""Runs Meta-World's own environment, records what it read, and evaluates mtrl's arithmetic on the record.

mtrl's arithmetic is evaluated both ways: the tasks' functions as Python, and compiled to C.
"""

from __future__ import annotations

import ctypes
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

import metaworld
import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from mtrl.core.native import compiled
from mtrl.envs.metaworld.arithmetic import CURRENT, FLAGS, PREVIOUS, RESULT_SIZE, TaskArithmetic, arithmetic_source
from mtrl.envs.metaworld.probes import ProbeLayout, address_of, read_constant
from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.base import CURRENT_SIZE, HAND_HIGH, HAND_LOW, OBSERVATION_SIZE, RewardVersion, TaskSpec
from mtrl.envs.metaworld.tasks.state import Outcome
from tests.support.metaworld_scatter import scatter_steps

Policy = Literal["scripted", "noisy", "random", "scattered"]
POLICIES: tuple[Policy, ...] = ("scripted", "noisy", "random")
VERSIONS: tuple[RewardVersion, ...] = ("v2", "v1")
Way = Literal["python", "compiled"]
WAYS: tuple[Way, ...] = ("python", "compiled") if shutil.which("cc") else ("python",)
TOLERANCE = 1e-9
_SIMULATOR_ARRAYS = ("xpos", "xquat", "xmat", "site_xpos", "site_xmat", "geom_xpos", "geom_xmat", "qpos", "qvel")


@dataclass
class Episode:
    """What Meta-World computed in one episode of ``steps`` steps, and from what."""

    spec: TaskSpec
    layout: ProbeLayout
    first_frame: NDArray[np.float64]
    constants: dict[str, NDArray[np.float64]]
    rows: NDArray[np.float64]
    actions: NDArray[np.float32]
    observations: NDArray[np.float64]
    outcomes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=2)
def _environment(name: str, seed: int, goals: int) -> tuple[Any, list[Any]]:
    # Goals are drawn one after the other by 50 resets; the first few of them are the same without the rest.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metaworld, "_N_GOALS", goals)
        benchmark = metaworld.MT1(name, seed=seed)
    return benchmark.train_classes[name](), list(benchmark.train_tasks)


def _actor(name: str, policy: Policy, rng: np.random.Generator) -> Callable[[NDArray[np.float64]], NDArray[np.float32]]:
    if policy in ("random", "scattered"):
        return lambda _: rng.uniform(-1, 1, 4).astype(np.float32)
    scripted = ENV_POLICY_MAP[name]()
    scale = 0.3 if policy == "noisy" else 0.0

    def act(observation: NDArray[np.float64]) -> NDArray[np.float32]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its actions may exceed 1, which is wanted here
            action = scripted.get_action(observation)
        return (action + scale * rng.normal(size=4)).astype(np.float32)

    return act


def _package_outcome(environment: Any, version: RewardVersion, observation: Any, action: Any) -> list[float]:
    environment.reward_function_version = version
    reward, info = environment.evaluate_state(observation, action)
    assert float(info["unscaled_reward"]) == float(reward)
    return [float(reward), *(float(info[name]) for name in Outcome._fields[1:])]


def _check_constants(environment: Any, spec: TaskSpec) -> None:
    """A constant must not be a view of the simulator's state; the initial pads must be one."""
    arrays = [getattr(environment.data, name) for name in _SIMULATOR_ARRAYS]
    for pad in ("init_left_pad", "init_right_pad"):
        assert np.shares_memory(getattr(environment, pad), environment.data.xpos), f"{pad} is not live"
    for name, source in spec.all_constants.items():
        value = None if source.startswith("model.") else attrgetter(source)(environment)
        if isinstance(value, np.ndarray):
            live = any(np.shares_memory(value, array) for array in arrays)
            assert not live, f"{spec.name}: `{name}` ({source}) is a live view: make it a probe"


def record(name: str, policy: Policy, seed: int = 0, goal: int = 0, steps: int = 500) -> list[Episode]:
    """Two episodes of Meta-World's environment, the second on the next goal after a reset."""
    environment, tasks = _environment(name, seed, goal + 2)
    rng = np.random.default_rng([seed, goal])
    act = _actor(name, policy, rng)
    episodes = []
    for task in tasks[goal : goal + 2]:
        environment.set_task(task)
        environment.reward_function_version = "v1"  # assembly's v1 reward needs numbers that only such a reset makes
        observation, _ = environment.reset()
        with pytest.MonkeyPatch.context() as patch:
            if policy == "scattered":
                scatter_steps(environment, TASKS[name], rng, patch)
            episodes.append(_recorded(environment, TASKS[name], observation, act, steps))
    return episodes


def _recorded(environment: Any, spec: TaskSpec, observation: Any, act: Callable[[Any], Any], steps: int) -> Episode:
    """One episode after a reset.

    Both versions of the reward are taken from each step: `evaluate_state` is called for each, which changes nothing but
    the variables that a task latches.
    """
    layout = ProbeLayout(environment.model, spec.all_probes)
    row = np.zeros(layout.width)
    gather = layout.gatherer([environment.data], row[None])
    _check_constants(environment, spec)
    hand = environment._HAND_SPACE
    assert (*hand.low, *hand.high) == (*HAND_LOW, *HAND_HIGH)
    constants = {key: read_constant(environment, source) for key, source in spec.all_constants.items()}
    episode = Episode(
        spec=spec,
        layout=layout,
        first_frame=observation[:CURRENT_SIZE].copy(),
        constants=constants,
        rows=np.zeros((steps, layout.width)),
        actions=np.zeros((steps, 4), dtype=np.float32),
        observations=np.zeros((steps, OBSERVATION_SIZE)),
        outcomes={version: np.zeros((steps, len(Outcome._fields))) for version in VERSIONS},
    )
    for step in range(steps):
        action = act(observation)
        environment.reward_function_version = "v2"
        observation, reward, _, _, _ = environment.step(action)
        gather()
        episode.rows[step], episode.actions[step], episode.observations[step] = row, action, observation
        for version in VERSIONS:
            if version in episode.failures:
                continue
            try:
                episode.outcomes[version][step] = _package_outcome(environment, version, observation, action)
            except Exception as error:
                episode.failures[version] = repr(error)
        assert episode.outcomes["v2"][step, 0] == float(reward)
    for key, source in spec.all_constants.items():
        moved = not np.array_equal(constants[key], read_constant(environment, source))
        assert not moved, f"{spec.name}: `{key}` ({source}) changed during the episode: make it a probe or a state"
    return episode


def _evaluation(arithmetic: TaskArithmetic, way: Way) -> Callable[[], None]:
    """What evaluates the only copy."""
    if way == "python":
        return arithmetic.evaluate(0, 1)
    function = getattr(compiled(arithmetic_source([arithmetic]), *FLAGS), arithmetic.name)
    function.restype = None
    arrays = (arithmetic.rows, arithmetic.constants, arithmetic.action, arithmetic.state, arithmetic.result)
    places = [ctypes.c_void_p(address_of(array)) for array in arrays]
    return lambda: function(*places)


def compute(episode: Episode, version: RewardVersion, way: Way) -> tuple[Any, Any]:
    """Observations ``(steps, 39)`` and outcomes ``(steps, 7)`` of mtrl's arithmetic, step after step."""
    shapes = {name: value.shape for name, value in episode.constants.items()}
    row, action, result = np.zeros_like(episode.rows[:1]), np.zeros((1, 4), np.float32), np.zeros((1, RESULT_SIZE))
    arithmetic = TaskArithmetic(episode.spec, version, episode.layout.columns, shapes, row, action, result)
    arithmetic.begin(0, episode.constants)
    results = np.zeros((len(episode.rows), RESULT_SIZE))
    result[0, CURRENT] = episode.first_frame
    evaluate = _evaluation(arithmetic, way)
    for step, found in enumerate(results):
        row[0], action[0], result[0, PREVIOUS] = episode.rows[step], episode.actions[step], result[0, CURRENT]
        evaluate()
        found[:] = result[0]
    return results[:, :OBSERVATION_SIZE], results[:, OBSERVATION_SIZE:]


def difference(found: Any, expected: Any) -> float:
    """Largest difference, relative where the expected number is above 1; infinite where only one of the two is NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    gap = np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)
    return float(np.nanmax(gap, initial=0.0))


def check(episode: Episode, version: RewardVersion, way: Way, bound: float = TOLERANCE) -> dict[str, float]:
    """Largest differences by name; AssertionError names the first step where one is above ``bound``."""
    spec = episode.spec
    assert version not in episode.failures, f"{spec.name} {version}: the package raised {episode.failures[version]}"
    observation, outcome = compute(episode, version, way)
    columns = {"observation": (observation, episode.observations)}
    for column, name in enumerate(Outcome._fields):
        columns[name] = (outcome[:, column], episode.outcomes[version][:, column])
    worst = {name: difference(found, expected) for name, (found, expected) in columns.items()}
    for name, (found, expected) in columns.items():
        if not worst[name] <= bound:
            gaps = [difference(a, b) for a, b in zip(found, expected, strict=True)]
            step = next(index for index, gap in enumerate(gaps) if not gap <= bound)
            raise AssertionError(
                f"{spec.name} {version} ({way}) `{name}`: off by {worst[name]:.2e}, from step {step} on: "
                f"expected {expected[step]}, found {found[step]}"
            )
    return worst
