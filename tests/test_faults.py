"""`make test-faults` goes on where it was, and tells states apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.faults.__main__ import pieces, summary
from tests.faults.cases import TRAINERS
from tests.faults.commands import digest
from tests.faults.parts import DISKS, KILLS_PER_RUN, PAIRS


def done(part: str, limit: int, lines: list[dict[str, Any]]) -> list[str]:
    """The pieces that a command does before it is ended, each kill's run with 7 kills."""
    names = []
    for trainer, name, _ in pieces(part, ["ppo"], lines, 1.0):
        if len(names) == limit:
            break
        names.append(name)
        lines.append({"part": part, "trainer": trainer, "piece": name, "holds": True, "kills": 7})
    return names


@pytest.mark.parametrize(("part", "count"), [("kills", -(-50 // 7)), ("flips", 1), ("disk", DISKS), ("writers", PAIRS)])
def test_the_same_command_goes_on_where_it_was(part: str, count: int) -> None:
    whole, lines = done(part, 1000, []), []
    parts = [name for _ in range(count + 1) for name in done(part, 1, lines)]
    assert parts == whole and len(set(whole)) == count
    assert KILLS_PER_RUN * len(whole) >= TRAINERS["ppo"][0] or part != "kills"
    (row,) = summary(lines)["rows"]
    assert row["pieces"] == row["held"] == count


def test_states_differ_by_one_number_its_type_its_shape_and_its_name() -> None:
    state = {"a": torch.arange(6.0), "b": [1, (True, None)]}
    others: list[Any] = [
        {**state, "a": torch.arange(6.0).nextafter(torch.tensor(9.0))},
        {**state, "a": torch.arange(6.0).double()},
        {**state, "a": torch.arange(6.0).reshape(2, 3)},
        {"c": state["a"], "b": state["b"]},
        {**state, "b": [1, [True, None]]},
        {**state, "b": [1, (1, None)]},
        {**state, "b": [1.0, (True, None)]},
    ]
    assert digest(state) == digest({"a": torch.arange(6.0), "b": [1, (True, None)]})
    assert len({digest(other) for other in [state, *others]}) == 1 + len(others)
