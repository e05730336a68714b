"""The table of results."""

import pytest

from mtrl.monitoring.tables import result_table


def test_columns_align_and_the_last_row_is_the_mean():
    values = {"success": [1.0, 0.5], "return": [4000.0, -12.25]}
    text = result_table(["reach-v3", "button-press-topdown-v3"], values, 10)
    head, _, first, second, _, mean = text.splitlines()
    assert first.split() == ["reach-v3", "100", "%", "4000"]
    assert second.split() == ["button-press-topdown-v3", "50", "%", "-12.25"]
    assert mean.split()[:4] == ["mean", "75", "%", "1994"] and mean.endswith("(10 episodes per task)")
    assert len({len(line) for line in (head, first, second)}) == 1


def test_the_mean_is_of_the_tasks_that_count():
    text = result_table(["a", "b", "noise"], {"accuracy": [1.0, 0.5, 0.1]}, 10, ["a", "b"])
    assert text.splitlines()[-1].split()[:5] == ["mean", "of", "2", "75", "%"]


def test_only_shares_are_in_per_cent():
    lines = result_table(["Pendulum-v1"], {"return": [-162.25], "length": [200]}, 5).splitlines()
    assert lines[0].split() == ["task", "return", "length"] and lines[2].split() == ["Pendulum-v1", "-162.2", "200"]


def test_every_task_needs_its_figures():
    with pytest.raises(ValueError):
        result_table(["a", "b"], {"success": [1.0], "return": [1.0]}, 10)


def test_an_accuracy_is_over_images():
    assert "(898 images per task)" in result_table(["parity"], {"accuracy": [0.5]}, 898)
    assert "(1 episode per task)" in result_table(["reach-v3"], {"success": [0.5]}, 1)
