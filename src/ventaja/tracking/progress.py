"""What a person sees while a run goes on: a live line on a terminal, plain lines everywhere else."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ventaja.tracking.words import number, shortened


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric on the progress line; absent as long as the metric is."""

    metric: str
    label: str
    format: str
    """A format spec, as in `format(value, ".3f")`."""
    sparkline: bool = False
    """Draw the metric's history beside its value."""


RL_COLUMNS = (
    Column(metric="reward", label="reward", format=".3f", sparkline=True),
    Column(metric="eval/accuracy_greedy", label="held out", format=".1%"),
    Column(metric="eval/reward", label="held-out reward", format=".3f"),
    Column(metric="kl", label="KL", format=".4f"),
    Column(metric="entropy", label="entropy", format=".3f"),
    Column(metric="completions/mean_length", label="length", format=".0f"),
    Column(metric="broken_fraction", label="broken", format=".1%"),
    Column(metric="tokens_per_second", label="tok/s", format=",.0f"),
)
"""For the rounds of reinforcement learning."""

SFT_COLUMNS = (
    Column(metric="loss", label="loss", format=".4f", sparkline=True),
    Column(metric="eval/loss", label="held out", format=".4f"),
    Column(metric="grad_norm", label="grad norm", format=".3g"),
    Column(metric="learning_rate", label="lr", format=".2e"),
    Column(metric="tokens_per_second", label="tok/s", format=",.0f"),
)
"""For the steps of supervised training."""

RANKING_COLUMNS = (
    Column(metric="loss", label="loss", format=".4f", sparkline=True),
    Column(metric="accuracy", label="pairs right", format=".1%"),
    Column(metric="eval/accuracy", label="held out", format=".1%"),
    Column(metric="grad_norm", label="grad norm", format=".3g"),
    Column(metric="learning_rate", label="lr", format=".2e"),
    Column(metric="tokens_per_second", label="tok/s", format=",.0f"),
)
"""For the steps of training on rankings."""

EVAL_COLUMNS = (Column(metric="tokens_per_second", label="tok/s", format=",.0f"),)
"""For an evaluation."""

_SECONDS_BETWEEN_SAMPLES = 30.0
_SPARKLINE_WIDTH = 16
_MOST_CHARACTERS = 800


class Progress:
    """Progress through `total` rounds (or steps, or batches: `unit`), used as a context manager.

        with Progress(200, RL_COLUMNS) as progress:
            progress.phase("sampling")
            ...
            progress.update(round, metrics)   # rounds count from 1: `round` of `total` are done

    On a terminal one live display is redrawn in place. Anywhere else (a pipe, CI, a notebook) each update is
    a short line, at most one in about `seconds_between_lines`, and the last one always.
    A resumed run gives as `start` how many are done already.
    """

    def __init__(
        self,
        total: int,
        columns: Sequence[Column] = RL_COLUMNS,
        *,
        unit: str = "round",
        start: int = 0,
        console: Console | None = None,
        seconds_between_lines: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self.total = total
        self._columns = tuple(columns)
        self.unit = unit
        self._interactive = self.console.is_interactive
        self._clock = clock
        self._seconds_between_lines = seconds_between_lines
        self.start = start
        self._done = start
        self._phase = ""
        self._metrics: dict[str, int | float] = {}
        self._history: dict[str, list[int | float]] = {
            column.metric: [] for column in columns if column.sparkline
        }
        self._marks: deque[tuple[float, int]] = deque(maxlen=32)
        """(time, rounds done): the last few give the pace, so a slow start does not bend it for long."""
        self._printed_at = -math.inf
        self._printed_done = start
        self._sampled_at = -math.inf
        self._spinner = Spinner("dots")
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._marks.append((self._clock(), self._done))
        if self._interactive:
            # A lambda, so that every refresh draws the newest state.
            self._live = Live(
                get_renderable=lambda: self, console=self.console, refresh_per_second=8, transient=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._phase = ""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._done != self._printed_done:
            self._print_line()

    def update(self, round: int, metrics: Mapping[str, Any]) -> None:
        """`round` of the total are done, with these metrics; those without a column are ignored."""
        self._marks.append((self._clock(), round))
        self._done = round
        for column in self._columns:
            value = number(metrics.get(column.metric))
            if value is not None:
                self._metrics[column.metric] = value
            if column.sparkline and column.metric in metrics:
                self._history[column.metric].append(math.nan if value is None else value)
        if self._live is None and (
            round >= self.total or self._clock() - self._printed_at >= self._seconds_between_lines
        ):
            self._print_line()

    def phase(self, name: str) -> None:
        """What is going on now: "sampling", "judging", "training", …; shown on a terminal only."""
        self._phase = name

    def sample(self, prompt: str, completion: str, reward: int | float | None = None) -> None:
        """Offers a completion to show; on a terminal one is printed now and then, above the live display."""
        now = self._clock()
        if not self._interactive or now - self._sampled_at < _SECONDS_BETWEEN_SAMPLES:
            return
        self._sampled_at = now
        title = f"{self.unit} {self._done}"
        if reward is not None:
            title += " · broken" if math.isnan(reward) else f" · reward {reward:.3g}"
        body = Group(
            Text(_printable(shortened(prompt, _MOST_CHARACTERS)), style="dim"),
            Text(_printable(shortened(completion, _MOST_CHARACTERS))),
        )
        self.console.print(Panel(body, title=Text(title), title_align="left", border_style="dim"))

    def note(self, text: str) -> None:
        """Prints a line that stays, wherever the progress is shown."""
        self.console.print(Text(_printable(text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self.total, 1), completed=self._done, width=28)
        cells: list[Any] = [Text(f"{self.unit} {self._done}/{self.total}", style="bold"), bar]
        if left := self._time_left():
            cells.append(Text(f"{left} left", style="cyan"))
        if self._phase:
            self._spinner.update(text=Text(self._phase, style="dim"))
            cells.append(self._spinner)
        head.add_row(*cells)
        yield head
        line = Text()
        for label, value, drawing in self._shown():
            line.append(("  " if line else "") + label + " ", style="dim")
            line.append(value, style="bold")
            if drawing:
                line.append(f" {drawing}", style="green")
        if line:
            yield line

    def _shown(self) -> list[tuple[str, str, str]]:
        """(label, value, sparkline) of the columns that have come so far."""
        draws = self.console.encoding.lower().startswith("utf")
        return [
            (
                column.label,
                format(self._metrics[column.metric], column.format),
                sparkline(self._history[column.metric]) if column.sparkline and draws else "",
            )
            for column in self._columns
            if column.metric in self._metrics
        ]

    def _print_line(self) -> None:
        self._printed_at = self._clock()
        self._printed_done = self._done
        parts = [f"{self.unit} {self._done}/{self.total}"]
        parts += [f"{label} {value}" for label, value, _ in self._shown()]
        if left := self._time_left():
            parts.append(f"{left} left")
        self.console.print(Text("  ".join(parts)), soft_wrap=True)

    def _time_left(self) -> str:
        if len(self._marks) < 2 or self._done >= self.total:
            return ""
        (first_time, first_done), (last_time, last_done) = self._marks[0], self._marks[-1]
        if last_done <= first_done:
            return ""
        return _duration((self.total - self._done) * (last_time - first_time) / (last_done - first_done))


@contextmanager
def loading(name: str, console: Console | None = None) -> Iterator[None]:
    """A sign of life before there is any progress: `Loading NAME …`, turning on a terminal while the block runs, and one
    line anywhere else."""
    console = console or Console()
    text = Text(f"Loading {_printable(name)} …", style="dim")
    if console.is_interactive:
        with console.status(text):
            yield
    else:
        console.print(text, soft_wrap=True)
        yield


def sparkline(values: Sequence[int | float], *, width: int = _SPARKLINE_WIDTH) -> str:
    """A history in one line of blocks, low to high; longer histories are averaged down to `width`.

    NaN leaves a space. A history that never changes is drawn at mid height.
    """
    if not values:
        return ""
    bins = min(width, len(values))
    means = [
        _mean(values[index * len(values) // bins : (index + 1) * len(values) // bins])
        for index in range(bins)
    ]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return " " * bins
    low, high = min(finite), max(finite)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(
        " "
        if not math.isfinite(mean)
        else "▄"
        if high == low
        else blocks[min(int((mean - low) / (high - low) * len(blocks)), len(blocks) - 1)]
        for mean in means
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for the end of a run, to print on a console; numbers to the right, None and NaN as a dash."""
    rows = [list(row) for row in rows]
    made = Table(title=Text(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows)
        made.add_column(Text(column), justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _printable(str(value))


def _mean(values: Sequence[int | float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _printable(text: str) -> str:
    """A model may say anything: an escape sequence must not reach the terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)
