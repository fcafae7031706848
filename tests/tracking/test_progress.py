"""Progress on a terminal is drawn in place; anywhere else it is a few plain lines."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console

from ventaja.tracking import EVAL_COLUMNS, RL_COLUMNS, SFT_COLUMNS, Column, Progress, sparkline, table


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pipe() -> Console:
    return Console(file=io.StringIO(), width=100)


def terminal() -> Console:
    # The terminal's type is given, or a dumb one around the tests would make this one dumb too.
    return Console(
        record=True, force_terminal=True, width=100, file=io.StringIO(), _environ={"TERM": "xterm-256color"}
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_one_line_a_round() -> None:
    console, clock = pipe(), Clock()
    with Progress(3, RL_COLUMNS, console=console, clock=clock) as progress:
        for number, metrics in enumerate(
            [
                {"reward": 0.25, "kl": 0.001, "tokens_per_second": 1234.5},
                {"reward": torch.tensor(0.5)},
                {"reward": 1.0},
            ],
            start=1,
        ):
            progress.phase("sampling")
            clock.now += 20
            progress.update(number, metrics)
            progress.sample("2 + 2?", "4", 1.0)
    assert written(console).splitlines() == [
        "round 1/3  reward 0.250  KL 0.0010  tok/s 1,234  0:40 left",
        "round 2/3  reward 0.500  KL 0.0010  tok/s 1,234  0:20 left",
        "round 3/3  reward 1.000  KL 0.0010  tok/s 1,234",
    ]


def test_fast_rounds_do_not_flood_a_pipe() -> None:
    console, clock = pipe(), Clock()
    with Progress(1000, SFT_COLUMNS, unit="step", console=console, clock=clock) as progress:
        for number in range(1, 1001):
            clock.now += 0.01
            progress.update(number, {"loss": 1 / number})
    lines = written(console).splitlines()
    assert 9 <= len(lines) <= 12
    assert lines[-1] == "step 1000/1000  loss 0.0010"


def test_a_run_that_ends_early_still_prints_its_last_round() -> None:
    console, clock = pipe(), Clock()

    def stopped_by_hand() -> None:
        with Progress(100, console=console, clock=clock) as progress:
            for number in (1, 2, 3):
                progress.update(number, {"reward": float(number)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_by_hand()
    assert [line[:11] for line in written(console).splitlines()] == ["round 1/100", "round 3/100"]


def test_a_resumed_run_judges_its_pace_by_its_own_rounds() -> None:
    console, clock = pipe(), Clock()
    with Progress(100, console=console, start=90, clock=clock) as progress:
        clock.now += 60
        progress.update(91, {})
    assert written(console) == "round 91/100  9:00 left\n"


def test_a_terminal_shows_bar_columns_and_phase() -> None:
    console, clock = terminal(), Clock()
    with Progress(10, RL_COLUMNS, console=console, clock=clock) as progress:
        for number in range(1, 5):
            clock.now += 3600
            progress.update(number, {"reward": number / 10, "entropy": 1.5, "unknown": 3})
        progress.phase("judging")
        clock.now += 60
        console.print(progress)
        text = console.export_text(clear=False)
    assert "round 4/10" in text
    assert "6:00:00 left" in text
    assert "judging" in text
    assert "reward 0.400 ▁▃▆█" in text
    assert "entropy 1.500" in text
    assert "KL" not in text
    assert "unknown" not in text


def test_samples_are_printed_now_and_then_and_are_harmless() -> None:
    console, clock = terminal(), Clock()
    with Progress(10, console=console, clock=clock) as progress:
        progress.sample("What is [bold]2 + 2[/bold]?", "[/red] \x1b[2J 4 " + "x" * 5000, 0.5)
        clock.now += 5
        progress.sample("too soon", "too soon", 0.5)
        clock.now += 30
        progress.sample("broken one", "?", math.nan)
        progress.note("Saved [checkpoint]")
    text = console.export_text()
    assert "What is [bold]2 + 2[/bold]?" in text
    assert "[/red] �[2J 4" in text
    assert "characters left out" in text
    assert "reward 0.5" in text
    assert "too soon" not in text
    assert "broken one" in text
    assert "round 0 · broken" in text
    assert "Saved [checkpoint]" in text


def test_nan_never_reaches_the_line_or_the_sparkline() -> None:
    console, clock = terminal(), Clock()
    with Progress(3, console=console, clock=clock) as progress:
        for value in (0.0, math.nan, None, 1.0):
            progress.update(1, {"reward": value, "kl": math.nan})
        console.print(progress)
    assert "reward 1.000 ▁  █" in console.export_text()


def test_columns_are_values() -> None:
    console = pipe()
    columns = (*EVAL_COLUMNS, Column(metric="mine", label="mine", format=".1f"))
    with Progress(2, columns, unit="batch", console=console) as progress:
        progress.update(2, {"tokens_per_second": 1234.5, "mine": 2})
    assert written(console) == "batch 2/2  tok/s 1,234  mine 2.0\n"


def test_no_blocks_where_the_terminal_cannot_show_them() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(1, console=Console(file=file, width=80)) as progress:
        progress.update(1, {"reward": 1.0})
    file.flush()


def test_sparkline_by_hand() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    # Four values in two bins: the means are 0 and 1.
    assert sparkline([0, 0, 1, 1], width=2) == "▁█"
    assert sparkline([math.nan]) == " "
    assert len(sparkline(list(range(1001)))) == 16


def test_table_aligns_numbers_and_escapes_text() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(
        table("Held out", ["model", "accuracy"], [["[red]base", 0.123456], ["tuned", math.nan], ["x", None]])
    )
    text = console.export_text()
    assert "Held out" in text
    assert "[red]base" in text
    assert "0.1235" in text
    assert text.count("–") == 2
