"""The default names of experiments tell apart what learns differently, and nothing else."""

from __future__ import annotations

import pytest

from mtrl import experiment
from mtrl.experiment.config import experiment_name
from tests.support.tiny_runs import TINY

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_an_experiment_is_named_by_what_is_not_default() -> None:
    names = [
        experiment.Experiment(experiment.compose([*TINY, *extra])).name
        for extra in ([], ["seed=2"], ["agent.gamma=0.9"])
    ]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("multi_head-equal-none-") for name in names)


def test_experiment_name_depends_on_the_fields_and_not_on_their_order() -> None:
    assert experiment_name("mint", "equal", "pcgrad", {}) == "mint-equal-pcgrad"
    name = experiment_name("mint", "equal", "pcgrad", {"a": 1, "b": {"c": 2, "d": 3}})
    assert name == experiment_name("mint", "equal", "pcgrad", {"b": {"d": 3, "c": 2}, "a": 1})
    assert name != experiment_name("mint", "equal", "pcgrad", {"a": 2, "b": {"c": 2, "d": 3}})
    assert len(name) == len("mint-equal-pcgrad-") + 8


def test_names_tell_apart_what_watches_and_learns() -> None:
    assert experiment.Experiment(experiment.compose(["benchmark=digit_domains"])).name == "conv-equal-none"
    options = [[], ["diagnostics=triad"], ["diagnostics=transference"], ["diagnostics=[triad,transference]"]]
    options += [["diagnostics=transference", "diagnostics.transference.every=3"]]
    options += [["critic_surgery=none"], ["critic_surgery=pcgrad"], ["critic_surgery=pcgrad", "surgery=pcgrad"]]
    options += [["agent=td3"], ["agent=ppo", "training=on_policy"]]
    names = {
        experiment.Experiment(experiment.compose(["benchmark=toy", "device=cpu", *extra])).name for extra in options
    }
    assert len(names) == len(options)
