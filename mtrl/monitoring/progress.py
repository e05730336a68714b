"""Shows the progress of training and of other long work: as a bar on a terminal, or as plain lines in a log file."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"


class Progress:
    """Shows steps and updates per second, the time left, and one value, such as the mean success.

    Rates are those of the last `window` seconds, so that a warm-up without updates does not distort them for long. If
    the oldest step among these took most of that time, rates are those since the beginning. Such steps compile updates,
    or try other tasks' policies (`training.reuse_every`).
    """

    def __init__(
        self,
        total_steps: int,
        initial: int = 0,
        *,
        headline: str = "success",
        stream: TextIO | None = None,
        interval: float = 30.0,
        window: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """initial: the step at which training begins. headline: the name of the value shown. interval: seconds between
        two lines if `stream` (stderr by default) is not a terminal."""
        self._stream = sys.stderr if stream is None else stream
        self._headline = headline
        self._total, self._clock, self._interval, self._window = total_steps, clock, interval, window
        self._begin: tuple[float, int, int | None] = (clock(), initial, None)
        self._seen: deque[tuple[float, int, int | None]] = deque([self._begin])
        self._printed = clock()
        self._value: float | None = None
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_steps, initial=initial, file=self._stream, bar_format=_BAR, unit_scale=True,
                dynamic_ncols=True, mininterval=0.25,
            )  # fmt: skip

    def update(self, step: int, updates: int, value: float | None = None) -> None:
        """Report that `step` steps and `updates` gradient updates are done so far. value: None keeps the last one."""
        self._value = self._value if value is None else value
        self._record(step, updates)
        if self._bar is not None:
            self._bar.set_postfix_str(self._facts(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._clock() - self._printed >= self._interval:
            self._print()

    def note(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None
        elif self._seen[-1][0] > self._printed:
            self._print()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, step: int, updates: int) -> None:
        now = self._clock()
        if self._seen[0][2] is None:
            self._begin = self._seen[0] = (*self._begin[:2], updates)
        if len(self._seen) > 1 and now - self._seen[-2][0] < self._window / 50:
            self._seen.pop()
        self._seen.append((now, step, updates))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()

    def _facts(self) -> str:
        from mtrl.monitoring.statistics import shown  # imported late, so that a refused command does not load NumPy

        first, (now, step, updates) = self._seen[0], self._seen[-1]
        longest = min(self._window, (now - first[0]) / 2)
        if len(self._seen) > 1 and self._seen[1][0] - self._seen[0][0] > longest:
            first = self._begin
        before, first_step, first_updates = first
        seconds = max(now - before, 1e-9)
        speed = (step - first_step) / seconds
        left = tqdm.format_interval((self._total - step) / speed) if speed > 0 else "?"
        facts = [f"{speed:.0f} steps/s"]
        made = (updates or 0) - (first_updates or 0)  # 0 during a rollout, which is not worth showing
        facts += [f"{made / seconds:.1f} updates/s"] if made else []
        facts += [f"{left} left"] if step < self._total else []
        facts += [] if self._value is None else [f"{self._headline} {shown(self._headline, self._value)}"]
        return ", ".join(facts)

    def _print(self) -> None:
        self._printed = self._clock()
        step = self._seen[-1][1]
        print(f"step {step}/{self._total}, {self._facts()}", file=self._stream, flush=True)


class Counter:
    """Shows how many of something are done, their rate and the time left: as a bar on a terminal, elsewhere as a plain
    line every `interval` seconds."""

    def __init__(
        self,
        unit: str,
        *,
        stream: TextIO | None = None,
        delay: float = 1.0,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """unit: the plural of what is counted. delay: seconds before a bar is drawn, since shorter work needs none."""
        self._stream, self._unit = sys.stderr if stream is None else stream, unit
        self._clock, self._interval, self.done = clock, interval, 0
        self._begin = self._printed = clock()
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=0, file=self._stream, bar_format=_BAR.replace("{postfix}", f" {unit}{{postfix}}"), leave=False,
                unit_scale=True, dynamic_ncols=True, delay=delay, mininterval=min(delay, 0.25),
            )  # fmt: skip

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` are done."""
        self.done, now = done, self._clock()
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(self._facts(now, total), refresh=False)
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
        elif now - self._printed >= self._interval:
            self._printed = now
            print(f"{done}/{total} {self._unit}, {self._facts(now, total)}", file=self._stream, flush=True)

    def _facts(self, now: float, total: int) -> str:
        speed = self.done / max(now - self._begin, 1e-9)
        left = f", {tqdm.format_interval((total - self.done) / speed)} left" if 0 < self.done < total else ""
        return f"{tqdm.format_sizeof(speed) if speed >= 1000 else f'{speed:.3g}'}/s{left}"


class Block:
    """Lines at the end of a terminal that are redrawn in place, below the lines of `note`. Elsewhere only the notes are
    printed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lines: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Replace the lines."""
        if self._stream.isatty():
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            self._lines = [line[:width] for line in lines]
            self._stream.write("".join(f"{line}\n" for line in self._lines))
            self._stream.flush()

    def note(self, text: str) -> None:
        """Print a line above the others."""
        lines = self._lines
        self._erase()
        print(text, file=self._stream, flush=True)
        self.show(lines)

    def _erase(self) -> None:
        if self._lines:
            self._stream.write(f"\x1b[{len(self._lines)}F\x1b[J")
            self._lines = []

    def __enter__(self) -> Block:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last lines where they are."""
        self._lines = []


@contextlib.contextmanager
def counting(total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Yield a function that reports progress: a call counts one more of `total`, or as many as its argument says."""
    counter = Counter(unit)

    def more(number: int = 1) -> None:
        counter(counter.done + number, total)

    yield more


def counted(items: Sequence[Item], unit: str) -> Iterator[Item]:
    """Yield the items one after another. Each counts as done when the next one is requested."""
    with counting(len(items), unit) as one_more:
        for item in items:
            yield item
            one_more()


def say(text: str) -> None:
    """Print a line for the user on stderr, since stdout is only for results."""
    print(text, file=sys.stderr, flush=True)
