"""The bar is for terminals, the lines for log files."""

import io
import re

from mtrl.monitoring.progress import Block, Counter, Progress, counted


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(stream: io.StringIO, seconds: int, total: int = 10_000, initial: int = 0) -> str:
    clock = Clock()
    with Progress(total, initial, stream=stream, clock=clock) as progress:
        progress.update(initial, 0)
        for second in range(1, seconds + 1):
            clock.now = float(second)
            progress.update(initial + 50 * second, 2 * second, 0.4 if second == 10 else None)
    return stream.getvalue()


def test_log_files_get_a_plain_line_at_most_every_thirty_seconds():
    lines = train(io.StringIO(), 95).splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step {50 * second}/10000" for second in (30, 60, 90, 95)]
    assert not any(mark in line for line in lines for mark in "\r\x1b|")


def test_what_is_no_share_is_shown_as_it_is():
    stream = io.StringIO()
    with Progress(10, headline="return", stream=stream, interval=0.0) as progress:
        progress.update(5, 1, -162.25)
    assert stream.getvalue().splitlines()[-1].endswith("return -162.2")


def test_line_states_rates_time_left_and_the_last_known_success():
    line = train(io.StringIO(), 100).splitlines()[-1]
    assert line == "step 5000/10000, 50 steps/s, 2.0 updates/s, 01:40 left, success 40 %"


def test_rates_are_those_of_this_process_after_a_resume():
    line = train(io.StringIO(), 30, initial=5000).splitlines()[0]
    assert line.startswith("step 6500/10000, 50 steps/s") and "01:10 left" in line


def test_rates_forget_the_warm_up():
    stream, clock = io.StringIO(), Clock()
    with Progress(100_000, stream=stream, clock=clock) as progress:
        for step, updates in [(0, 0), (9000, 0), (9010, 5), (9020, 10), (9030, 15), (9040, 20)]:
            progress.update(step, updates)
            clock.now += 10.0
    assert "1 steps/s, 0.5 updates/s" in stream.getvalue().splitlines()[-1]


def test_one_long_step_does_not_make_the_time_left_days():
    """Such a step comes when updates are compiled. While it is in the window, the rate is that of the whole run."""
    stream, clock = io.StringIO(), Clock()
    with Progress(100_000, stream=stream, clock=clock, interval=0.0) as progress:
        for step in range(0, 11_001, 50):
            progress.update(step, step // 2)
            clock.now += 40.0 if step == 9000 else 1.0
    before, after = (line for line in stream.getvalue().splitlines() if line.startswith(("step 9050/", "step 9500/")))
    assert before.startswith("step 9050/100000, 41 steps/s, 20.6 updates/s, 36:50 left")
    assert after.startswith("step 9500/100000, 41 steps/s")
    assert stream.getvalue().splitlines()[-1].startswith("step 11000/100000, 50 steps/s")


def test_a_step_of_most_of_the_window_does_not_either():
    stream, clock = io.StringIO(), Clock()
    with Progress(100_000, stream=stream, clock=clock, interval=0.0) as progress:
        for step in range(0, 11_001, 50):
            progress.update(step, step // 2)
            clock.now += 15.0 if step == 9000 else 1.0
    rates = [int(line.split()[2]) for line in stream.getvalue().splitlines()[20:]]
    assert 15 <= min(rates) <= max(rates) <= 51


def test_terminal_gets_a_bar_with_the_same_facts():
    text = train(Terminal(), 200)
    assert "\r" in text and "100%" in text and "50 steps/s, 2.0 updates/s" in text and "success 40 %" in text


def test_nothing_is_printed_where_nothing_happened():
    with Progress(10, stream=(stream := io.StringIO())):
        pass
    assert stream.getvalue() == ""


def count(stream: io.StringIO, seconds: int, delay: float = 0.0) -> str:
    clock = Clock()
    counter = Counter("episodes", stream=stream, delay=delay, clock=clock)
    for second in range(1, seconds + 1):
        clock.now = float(second)
        counter(4 * second, 1000)
    return stream.getvalue()


def test_what_is_counted_has_its_rate_and_the_time_left_in_plain_lines():
    times = [(120, "03:40"), (240, "03:10"), (360, "02:40")]
    expected = [f"{done}/1000 episodes, 4/s, {left} left" for done, left in times]
    assert count(io.StringIO(), 95).splitlines() == expected


def test_what_is_counted_is_a_bar_on_a_terminal_unless_it_is_short():
    text = count(Terminal(), 100)
    assert "\r" in text and "400/1.00k episodes, 4/s, 02:30 left" in text and "\n" not in text
    assert count(Terminal(), 100, delay=1000.0) == ""


def test_counted_gives_every_item_once_and_prints_nothing_where_it_is_short(capsys):
    assert [*counted("abc", "letters")] == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def screen(written: str) -> list[str]:
    """What a terminal shows after lines and moves to an earlier line, each of which erases all from there on."""
    lines: list[str] = []
    for part in re.split(r"(\x1b\[\d+F\x1b\[J)", written):
        if move := re.match(r"\x1b\[(\d+)F", part):
            del lines[len(lines) - int(move[1]) :]
        else:
            lines += part.splitlines()
    return lines


def test_a_block_stays_below_what_is_said_and_goes_with_its_lines():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with Block(stream) as block:
            block.show(["two trials", "one"])
            block.note("one has finished")
            block.show(["two trials"])
            block.show(["two trials", "other"])
            block.note("other has finished")
    assert screen(terminal.getvalue()) == ["one has finished", "other has finished", "two trials", "other"]
    assert file.getvalue() == "one has finished\nother has finished\n"
