"""A checkpoint is whole or absent, whenever the process dies."""

import os
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.monitoring import checkpoints


def state(value: float) -> dict:
    weights = OrderedDict(weight=torch.full((3, 2), float(value)))
    return {"networks": weights, "counters": {"step": int(value), "rates": [0.1, None, "text", (True,)]}}


def saved(folder: Path, *steps: int, keep: int = 2) -> Path:
    for step in steps:
        checkpoints.save(folder, step, state(step), {"rows": torch.full((4,), float(step))}, keep=keep)
    return folder


def test_a_write_that_is_cut_short_says_so(tmp_path: Path) -> None:
    """Here by the limit of a file's size, as by a full disk."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from mtrl.monitoring import checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "checkpoints.save(Path(sys.argv[1]), 1, {'weight': torch.zeros(100_000)}, {})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "File too large." in done.stderr.splitlines()[-1]
    assert names(tmp_path) == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_loads(folder: Path, step: int) -> None:
    path = checkpoints.latest(folder)
    assert path is not None and checkpoints.step_of(path) == step
    loaded = checkpoints.load(path)
    assert loaded["counters"] == state(step)["counters"]
    torch.testing.assert_close(loaded["networks"]["weight"], torch.full((3, 2), float(step)))
    torch.testing.assert_close(checkpoints.load_replay(path)["rows"], torch.full((4,), float(step)))


def test_what_is_loaded_is_what_was_saved(tmp_path):
    assert_loads(saved(tmp_path / "new" / "checkpoints", 7), 7)


def test_the_newest_checkpoints_stay_whole_and_steps_order_as_numbers(tmp_path):
    saved(tmp_path, 9, 10, 100)
    assert names(tmp_path) == ["step_10", "step_100"]
    assert names(tmp_path / "step_10") == names(tmp_path / "step_100") == ["replay.pt", "state.pt"]
    assert_loads(tmp_path, 100)


def test_saving_a_step_again_replaces_it(tmp_path):
    saved(tmp_path, 3)
    checkpoints.save(tmp_path, 3, state(5), {"rows": torch.full((4,), 5.0)})
    assert names(tmp_path) == ["step_3"]
    assert checkpoints.load(tmp_path / "step_3")["counters"]["step"] == 5


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_failing_writes_leave_the_previous_checkpoint(tmp_path, monkeypatch, function, step, call):
    saved(tmp_path, 1)
    real, calls = getattr(os, function), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, function, failing)
    try:
        checkpoints.save(tmp_path, step, state(step), {"rows": torch.full((4,), float(step))})
    except UserError as error:
        assert "No space left" in str(error) and len(calls) >= call
        assert_loads(tmp_path, 1)
        assert names(tmp_path) == ["step_1"]
    else:
        assert len(calls) < call
        assert_loads(tmp_path, step)


@pytest.mark.parametrize(
    ("function", "step", "call"),
    [("fsync", 2, 1), ("fsync", 2, 3), ("replace", 2, 1), ("replace", 1, 1), ("replace", 1, 2)],
)
def test_killed_writer_leaves_a_whole_checkpoint(tmp_path, function, step, call):
    saved(tmp_path, 1)
    code = f"""
import os, signal, sys, torch
from pathlib import Path
from mtrl.monitoring import checkpoints
real, calls = os.{function}, []
def killing(*arguments):
    calls.append(arguments)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
os.{function} = killing
state = {{"networks": {{"weight": torch.full((3, 2), {step}.0)}},
          "counters": {{"step": {step}, "rates": [0.1, None, "text", (True,)]}}}}
checkpoints.save(Path(sys.argv[1]), {step}, state, {{"rows": torch.full((4,), {step}.0)}})
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120, check=False).returncode
    assert ended == -signal.SIGKILL
    checkpoints.clean(tmp_path)
    assert_loads(tmp_path, 1)
    assert all(name.startswith("step_") for name in names(tmp_path))


def test_leftovers_are_not_taken_for_checkpoints_and_cleaned_away(tmp_path):
    saved(tmp_path, 1)
    for name in (".saving-step_8", "step_x"):
        (tmp_path / name).mkdir()
    (tmp_path / ".saving-step_8" / "state.pt").write_bytes(b"half")
    assert_loads(tmp_path, 1)
    checkpoints.clean(tmp_path)
    assert names(tmp_path) == ["step_1", "step_x"]
    assert checkpoints.latest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing"])
@pytest.mark.parametrize("file", ["state.pt", "replay.pt"])
def test_damaged_file_is_one_line_with_its_path(tmp_path, damage, file):
    path = saved(tmp_path, 1) / "step_1" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"garbage" * 99, "empty": b""}[damage])
    with pytest.raises(UserError) as error:
        (checkpoints.load if file == "state.pt" else checkpoints.load_replay)(tmp_path / "step_1")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    (tmp_path / "step_1").mkdir()
    torch.save({"trap": Trap()}, tmp_path / "step_1" / "state.pt")
    with pytest.raises(UserError):
        checkpoints.load(tmp_path / "step_1")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), {1, 2}, Path("x")])
def test_what_could_not_be_loaded_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(TypeError, match=r"state.pt\['a'\]\[1\]"):
        checkpoints.save(tmp_path / "checkpoints", 1, {"a": [0, value]}, {})
    assert names(tmp_path) == []


def test_a_replay_in_use_is_neither_changed_by_its_reader_nor_lost_with_its_file(tmp_path):
    saved(tmp_path, 1)
    rows = checkpoints.load_replay(tmp_path / "step_1")["rows"]
    rows += 1.0
    torch.testing.assert_close(checkpoints.load_replay(tmp_path / "step_1")["rows"], torch.ones(4))
    saved(tmp_path, 2)
    torch.testing.assert_close(rows, torch.full((4,), 2.0))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_a_number_in_silence(tmp_path: Path, every: int) -> None:
    checkpoints.save(tmp_path, 1, state(1), {})
    file = tmp_path / "step_1" / "state.pt"
    content, refused = file.read_bytes(), 0
    for place in range(0, len(content), every):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            assert same(checkpoints.load(tmp_path / "step_1"), state(1)), f"byte {place}"
        except UserError:
            refused += 1
    assert refused > len(content) / every / 3


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"zeros": torch.zeros(1_000_000)}, {})
    file = tmp_path / "step_1" / "state.pt"
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    with pytest.raises(UserError, match="a compressed record"):
        checkpoints.load(tmp_path / "step_1")


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {}, {})
    torch.save([1], tmp_path / "step_1" / "state.pt")
    with pytest.raises(UserError, match="a list, not a dictionary"):
        checkpoints.load(tmp_path / "step_1")


def blocks(*names: str) -> dict[str, Any]:
    """Views of one tensor, each full of the number in its name."""
    whole = torch.cat([torch.full((2, 3), float(name.split("_")[1])) for name in names], 1)
    return {"position": 1, "blocks": dict(zip(names, whole.split(3, 1), strict=True))}


def numbers(folder: Path) -> list[float]:
    found = checkpoints.newest(folder)
    assert found is not None and all(block.shape == (2, 3) for block in found.replay["blocks"].values())
    return [block.unique().item() for block in found.replay["blocks"].values()]


def saved_blocks(folder: Path) -> Path:
    checkpoints.save(folder, 1, {}, blocks("0_3", "3_4"))
    checkpoints.save(folder, 2, {}, blocks("0_3", "3_6", "6_7"))
    return folder


def test_a_block_that_the_checkpoint_before_has_is_not_written_again(tmp_path: Path) -> None:
    saved_blocks(tmp_path)
    assert numbers(tmp_path) == [3.0, 6.0, 7.0]
    assert (tmp_path / "step_1/block_0_3.pt").samefile(tmp_path / "step_2/block_0_3.pt")
    assert names(tmp_path / "step_2") == ["block_0_3.pt", "block_3_6.pt", "block_6_7.pt", "replay.pt", "state.pt"]
    assert (tmp_path / "step_2/block_6_7.pt").stat().st_size < 2000, "without the tensor that it is a part of"
    checkpoints.save(tmp_path, 3, {}, blocks("0_8"))
    checkpoints.save(tmp_path, 4, {}, blocks("0_9"))
    assert numbers(tmp_path) == [9.0] and {path.name for path in tmp_path.rglob("*_8.pt")} == {"block_0_8.pt"}


def test_where_files_cannot_have_two_names_blocks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert numbers(saved_blocks(tmp_path)) == [3.0, 6.0, 7.0]
    assert not (tmp_path / "step_1/block_0_3.pt").samefile(tmp_path / "step_2/block_0_3.pt")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-99])])
def test_a_damaged_block_is_found(tmp_path: Path, damage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    damage(saved_blocks(tmp_path) / "step_2/block_3_6.pt")
    assert numbers(tmp_path) == [3.0, 4.0]
    assert "block_3_6.pt should be whole and readable" in capsys.readouterr().err
    damage(tmp_path / "step_1/block_3_4.pt")
    with pytest.raises(UserError, match="No earlier checkpoint is whole"):
        checkpoints.newest(tmp_path)


@pytest.mark.parametrize("found", [["../../x"], "0_3", [1], ["0_3", "none"]])
def test_a_replay_that_names_no_blocks_of_its_own_is_refused(tmp_path: Path, found: Any) -> None:
    checkpoints.save(tmp_path, 1, {}, blocks("0_3"))
    torch.save({"blocks": found}, tmp_path / "step_1/replay.pt")
    with pytest.raises(UserError, match=r"should be"):
        checkpoints.load_replay(tmp_path / "step_1")


def test_the_best_policy_stays_as_long_as_training_may_go_on_from_before_it(tmp_path: Path) -> None:
    assert checkpoints.best(tmp_path) is None
    kept = []
    for step in range(1, 9):
        if step in (2, 3, 6):
            checkpoints.save_best(tmp_path, step, {"weight": torch.full((2,), float(step))})
        checkpoints.save(tmp_path, step, {}, {})
        kept.append([name for name in names(tmp_path) if name.startswith("best")])
    assert kept == [[], ["best_2.pt"], *[["best_2.pt", "best_3.pt"]], *[["best_3.pt"]] * 2,
                    *[["best_3.pt", "best_6.pt"]], *[["best_6.pt"]] * 2]  # fmt: skip


@pytest.mark.parametrize(("step", "expected"), [(6, 6), (5, 3), (1, None)])
def test_training_that_goes_back_forgets_what_was_best_after(tmp_path: Path, step: int, expected: int | None) -> None:
    for number in (3, 6):
        checkpoints.save_best(tmp_path, number, {"weight": torch.full((2,), float(number))})
    checkpoints.go_back(tmp_path, step)
    best = checkpoints.best(tmp_path)
    assert (best and checkpoints.load_policy(best)["step"]) == expected
