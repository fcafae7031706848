"""A reward that is only measured: against what is learned from, and for choosing a checkpoint."""

from __future__ import annotations

import math

import pytest
from tiny_task import rl_values, run_rl

from ventaja.environments import Reward
from ventaja.errors import ConfigError
from ventaja.training import RlConfig, parse
from ventaja.training.joints import check_gold


def not_too_many(completions):
    """What is really wanted: an a, and not more than two of them."""
    return [float(1 <= text.count("a") <= 2) for text in completions]


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gold")
    (folder / "held_out.jsonl").write_text("".join(f'{{"prompt": "say {c}"}}\n' for c in "stuvwxyz"))
    return run_rl(
        folder / "run", model, gold=not_too_many, reward={"gold": "gold"},
        algorithm={"kl": "loss", "kl_coef": 0.001, "group_size": 4},
        run={"rounds": 24, "completions_per_round": 32, "keep_checkpoints": 1, "checkpoint_every": 100},
        optimiser={"learning_rate": 3e-2},
        eval={"source": str(folder / "held_out.jsonl"), "every": 2},
    )  # fmt: skip


def test_the_best_checkpoint_is_that_of_the_highest_gold_and_is_kept(run):
    measured = {line["total_updates"]: line["eval/gold"] for line in run.metrics if "eval/gold" in line}
    best = max(measured, key=lambda updates: (measured[updates], -updates))
    assert run.best_checkpoint.name == f"{int(best):06d}"
    assert run.best_checkpoint.is_dir()
    # the policy has learned to say more of them than are wanted, so that the best one is not the last
    assert run.metrics[-1]["eval/gold"] < measured[best]
    assert run.best_checkpoint != run.last_checkpoint


def test_gold_is_measured_and_not_learned_from(run):
    for line in run.metrics:
        assert line["reward"] == pytest.approx(line["rewards/share_of_a/mean"])
        assert 0 <= line["rewards/gold/mean"] <= 1


def test_the_report_draws_both_over_the_distance(run):
    page = run.report().read_text()
    assert "Reward over the distance from the reference" in page
    assert "d(α − β log d)" in page
    [best] = [line for line in run.metrics if line["total_updates"] == int(run.best_checkpoint.name)][:1]
    where = math.sqrt(best["kl"] * best["completions/mean_length"])
    assert f"best checkpoint by held-out gold, at √KL {where:.2f}" in page


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"proxy": 1.0, "gold": 0.0}, None),
        ({"proxy": 1.0, "golden": 0.0}, "no reward function 'gold'. Did you mean 'golden'"),
        ({"proxy": 1.0, "gold": 0.5}, "would learn from 'gold', whose weight is 0.5"),
        ({"gold": 0.0}, "no other function has a weight"),
    ],
)
def test_what_gold_may_be(weights, says):
    rewards = [Reward(not_too_many, name, weight=weight) for name, weight in weights.items()]
    if says is None:
        check_gold("gold", rewards)
        return
    with pytest.raises(ConfigError, match="reward.gold: .*" + says):
        check_gold("gold", rewards)


def test_it_is_a_setting(tmp_path, model):
    values = rl_values(
        tmp_path,
        model,
        reward={"functions": ["a.py:b", {"function": "a.py:gold", "weight": 0}], "gold": "gold"},
    )
    assert parse(RlConfig, values).reward.gold == "gold"
