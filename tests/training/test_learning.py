"""Every algorithm learns the same trivial task when one word of the run file is changed."""

import math

import pytest
from tiny_task import metrics, run_rl

from ventaja.training import ALGORITHMS

SETTINGS = {
    "optimiser": {"learning_rate": 1e-2},
    "run": {"rounds": 12, "completions_per_round": 64},
    "sampling": {"max_tokens": 4},
}
ROUNDS = {"remax": 36}
"""Its baseline is what the best answer earns, once the greedy one is that: it then learns from what to avoid."""


@pytest.mark.parametrize("cpu", ["fast", "plain"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_reward_rises(name, cpu, model, tmp_path):
    run = {**SETTINGS["run"], "folder": str(tmp_path / "run"), "trackers": []}
    run["rounds"] = ROUNDS.get(name, run["rounds"])
    algorithm = {"name": name, "group_size": ALGORITHMS[name].group_size}
    run_rl(tmp_path / "run", model, **{**SETTINGS, "run": run, "algorithm": algorithm, "model": {"cpu": cpu}})
    lines = metrics(tmp_path / "run")
    rewards = [line["reward"] for line in lines]
    # One of 32 letters by chance: 1/32 on average. Twelve rounds bring every algorithm far above that.
    assert rewards[0] < 0.15
    assert sum(rewards[-3:]) / 3 > 0.5
    assert all(math.isfinite(value) for line in lines for value in line.values())
