"""Files of facts: JSON in which people can read values and differences of versions, with every value as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl.monitoring.files import write_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(VALUES)
def test_every_value_comes_back(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "facts.json", value)
    assert json.loads((tmp_path / "facts.json").read_text(encoding="utf-8")) == value


def test_numbers_in_a_row_have_one_line_and_long_dictionaries_one_for_each_entry(tmp_path: Path) -> None:
    value = {"matrix": [[index / 7] * 20 for index in range(3)], "short": {"a": 1}, "empty": {}}
    write_json(tmp_path / "facts.json", value)
    lines = (tmp_path / "facts.json").read_text().splitlines()
    row = [json.dumps(numbers) for numbers in value["matrix"]]
    assert lines == [
        "{", '  "matrix": [', f"    {row[0]},", f"    {row[1]},", f"    {row[2]}", "  ],",
        '  "short": {"a": 1},', '  "empty": {}', "}",
    ]  # fmt: skip
