"""A metric has one name: where it is recorded, on the page about metrics, in the report and on the progress line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_reward_model import dpo, ranking, reward
from tiny_task import run_rl, run_sft

from ventaja import log_metric
from ventaja.tracking import EVAL_COLUMNS, RANKING_COLUMNS, RL_COLUMNS, SFT_COLUMNS, Run
from ventaja.tracking.report.curves import CHARTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text()
NAMED = ("rewards", "reward_metrics")


def first_half(completions):
    """1 for a letter before n, so that there is right and wrong, and groups differ."""
    log_metric("letters", sum(map(len, completions)))
    return [float(text[:1] in set("abcdefghijklm")) for text in completions]


def letters(text):
    return [(place, place + 1) for place in range(len(text))]


def each_letter(steps):
    return [[float(letter == "a") for letter in each] for each in steps]


def general(name: str) -> str:
    """A metric as the page writes it: with NAME for what somebody named."""
    return re.sub(rf"\b({'|'.join(NAMED)})/[^/]+", r"\1/NAME", name)


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture(scope="module")
def made(model, tmp_path_factory) -> dict[str, list[Run]]:
    """Runs with every part turned on that has a metric of its own."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "held_out.jsonl").write_text('{"prompt": "say z"}\n{"prompt": "say y"}\n')
    (folder / "examples.jsonl").write_text('{"prompt": "say z:", "completion": "aa"}\n')
    parts = {
        "name": "dapo", "minibatches": 2, "dual_clip": 3.0, "kl": "loss", "kl_coef": 0.1, "max_approx_kl": 1e6,
    }  # fmt: skip
    bfloat16 = {"precision": "bfloat16"}
    many = {"rounds": 2, "completions_per_round": 32}
    ranked = [ranking(c, ["a", "bb", "cab"], ((0,), (1,), (2,)), line=1) for c in "abcdefgh"]
    return {
        "rl": [
            run_rl(
                folder / "dapo", model, judge=first_half, model=bfloat16, algorithm=parts, run=many,
                gold=first_half, reward={"gold": "gold"},
                eval={"source": str(folder / "held_out.jsonl"), "every": 2},
            ),
            run_rl(
                folder / "ppo", model, critic={"clip": 0.1}, run=many,
                algorithm={"name": "ppo", "entropy_coef": 0.01, "entropy_target": 1.0},
            ),
            run_rl(folder / "remax", model, algorithm={"name": "remax"}, run=many),
            run_rl(folder / "gspo", model, algorithm={"name": "gspo", "minibatches": 2}, run=many),
            run_rl(folder / "steps", model, judge=each_letter, steps=letters, run=many),
        ],
        "sft": [
            run_sft(
                folder / "sft", model, model=bfloat16,
                eval={"source": str(folder / "examples.jsonl"), "every": 3},
            )
        ],
        "rankings": [
            reward(folder / "reward", model, ranked, model=bfloat16, run={"updates": 1}),
            dpo(folder / "dpo", model, ranked, run={"updates": 1}),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def recorded(made) -> dict[str, set[str]]:
    """What they record."""
    return {
        kind: {general(name) for run in runs for line in run.metrics for name in line}
        for kind, runs in made.items()
    }


def test_the_page_lists_what_is_recorded_and_nothing_else(recorded) -> None:
    assert documented() == recorded["rl"] | recorded["sft"] | recorded["rankings"]


def test_the_page_about_runs_lists_the_columns_of_rollouts_and_no_others(made) -> None:
    page = (DOCS / "runs.md").read_text()
    table = page[page.index("## The Parquet columns") : page.index("## What a checkpoint holds")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    written = {name for run in made["rl"] for name in run.rollout_table(1).column_names}
    assert listed == written


def test_what_is_shown_is_recorded(recorded) -> None:
    everything = recorded["rl"] | recorded["sft"] | recorded["rankings"]
    charts = {name for chart in CHARTS for name in (*chart.metrics, *filter(None, [chart.band]))}
    assert charts <= everything
    assert {column.metric for column in RL_COLUMNS} <= recorded["rl"]
    assert {column.metric for column in SFT_COLUMNS} <= recorded["sft"]
    assert {column.metric for column in RANKING_COLUMNS} <= recorded["rankings"]
    assert {column.metric for column in EVAL_COLUMNS} <= {
        "tokens_per_second"
    }  # all that an evaluation shows on its way


def test_names_in_the_text_are_on_the_list() -> None:
    text = PAGE[PAGE.index("## Reading them") :]
    mentioned = set(re.findall(r"`([a-z_]+/[a-z_0-9]+)`", text))
    assert mentioned <= documented()
