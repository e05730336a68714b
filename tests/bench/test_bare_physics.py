"""The bound of `mtrl bench envs` does the physics of the engine's steps, all of it."""
# pyright: reportAttributeAccessIssue=false
# (mujoco's compiled modules have no stubs.)

from __future__ import annotations

import contextlib

import mujoco
import numpy as np
import pytest

from mtrl.bench.bare_physics import BarePhysics, can_run
from mtrl.envs.metaworld.engine import BatchedEnvs
from mtrl.envs.metaworld.starts import INTEGRATION
from mtrl.envs.metaworld.suite import Config, MetaWorldSuite


@pytest.mark.parametrize("whole", [False, True], ids=["our models", "whole models"])
def test_repeated_commands_lead_to_the_engines_states(whole: bool) -> None:
    if not can_run():
        pytest.skip("there is no C compiler")
    tasks, rng, commands = ["push-v3", "door-open-v3", "reach-v3"], np.random.default_rng(0), []
    goals = MetaWorldSuite(Config("custom", tasks=tasks)).goals(0)
    # Copies have one model in common, so that both of a task have the same goal here.
    with contextlib.closing(BatchedEnvs({task: goals[task][:1] for task in tasks}, 0, 2, threads=2)) as envs:
        envs.reset()
        bare = BarePhysics(envs, whole)
        bare.copy_states()
        for _ in range(40):
            envs.step(rng.uniform(-1, 1, (3, 2, 4)).astype(np.float32))
            commands.append(envs.controls.copy())
        assert bare.run(commands) > 0
        pairs = [(physics, n) for physics in envs.physics for n in range(2)]
        for (physics, n), data in zip(pairs, bare.datas, strict=True):
            wanted = physics.state(n)
            found = np.empty(mujoco.mj_stateSize(physics.models[0], INTEGRATION))
            mujoco.mj_getState(physics.models[0], data, found, INTEGRATION)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=0)
        bare.close()
