"""What `mtrl bench scale` computes for many collectors, from a rollout that was measured with one."""

from __future__ import annotations

import pytest

from mtrl.bench.scale import COPIES, NETWORK, Rollout, computed, median_of, row_of

SIZE = 500
ONE = Rollout(4.0, 0.5, {"policy": 2e6, "noise": 640e3, "steps": 7.2e6, "states": 1e5})


def test_one_collector_is_computed_as_it_was_measured_but_for_the_network() -> None:
    found = computed(1, ONE)
    assert found.collect - ONE.collect == pytest.approx(sum(ONE.sent.values()) / NETWORK) and found.update == ONE.update
    row = row_of(1, SIZE, ONE)
    assert row["env_steps_per_second"] == pytest.approx(10 * COPIES * SIZE / 4.5)
    assert row["bytes_per_env_step"] == pytest.approx((640e3 + 7.2e6) / (10 * COPIES * SIZE))


def test_more_collectors_come_up_to_what_learner_and_network_allow() -> None:
    """The learner's time per step does not depend on how many collect; the collectors share the rest."""
    steps = 10 * COPIES * SIZE
    most = steps / (ONE.update + sum(ONE.sent.values()) / NETWORK)
    rates = [row_of(n, SIZE, computed(n, ONE))["env_steps_per_second"] for n in (1, 10, 100, 10_000)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(most, rel=0.01) and rates[-1] < most


def test_each_number_of_a_row_is_a_median() -> None:
    others = [ONE._replace(collect=9.0, update=0.1), ONE._replace(collect=3.0, update=0.9)]
    assert median_of([ONE, *others]) == ONE
