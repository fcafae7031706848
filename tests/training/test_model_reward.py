"""A reward model's folder as a reward: the same tokens, the same scores, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_reward_model import by_share_of_a, by_transformers, reward
from tiny_task import LETTERS, VOCABULARY, llama, quiet, rl_values, tokenizer
from torch.testing import assert_close

import ventaja
from ventaja.errors import ConfigError, ModelError
from ventaja.models import load_reward_model
from ventaja.training import RlConfig, parse, train_rl
from ventaja.training.joints import load_rewards, make_reward
from ventaja.training.model_reward import ModelReward

QUESTIONS = ["say a", "say b??"]
ANSWERS = ["aaaa", "bc", "cab"]


@pytest.fixture(scope="module")
def judge(model, tmp_path_factory) -> Path:
    """The run folder of a reward model that likes the letter a."""
    folder = tmp_path_factory.mktemp("judge") / "likes-a"
    reward(folder, model, by_share_of_a(40), run={"updates": 30, "batch_size": 8})
    return folder


@pytest.fixture(scope="module")
def judges(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judges") / "three"
    reward(folder, model, by_share_of_a(40), head={"ensemble": 3}, run={"updates": 10, "batch_size": 8})
    return folder


def loaded(folder, **options):
    return make_reward(str(folder), name=None, weight=1.0, options={"device": "cpu", **options}).function


def asked(function, *, ids=True):
    """Rewards of all answers to all questions, as a round would ask for them."""
    words = tokenizer()
    pairs = [(q, a) for q in QUESTIONS for a in ANSWERS]
    tokens = [words(a)["input_ids"] + [words.eos_token_id] if ids else [] for _, a in pairs]
    return function(
        prompts=[q for q, _ in pairs], completions=[a for _, a in pairs], completion_ids=tokens
    )  # fmt: skip


def test_rewards_are_transformers_scores_less_the_line(judge):
    [checkpoint] = (judge / "checkpoints").iterdir()
    line = float(load_reward_model(str(judge)).heads.line_E.detach())
    assert line != 0
    expected = [s - line for q in QUESTIONS for s in by_transformers(checkpoint, q, ANSWERS)]
    assert asked(loaded(judge)) == pytest.approx(expected, abs=1e-4)
    assert asked(loaded(judge), ids=False) == pytest.approx(expected, abs=1e-4)  # from the text
    assert asked(loaded(judge, row_tokens=8)) == pytest.approx(expected, abs=1e-4)


def test_sampled_tokens_are_not_decoded(judge, monkeypatch):
    function = loaded(judge)
    function.meet(tokenizer(), policy="the policy")
    monkeypatch.setattr(type(function.network.tokenizer), "decode", None)
    words = tokenizer()
    ids = words("ab")["input_ids"]
    # cut off as they were sampled, and with a text that says something else
    cut, ended = function(
        prompts=["say a"] * 2, completions=["zz", "zz"], completion_ids=[ids, [*ids, words.eos_token_id]]
    )
    read = asked(function)
    assert cut != ended
    assert ended == pytest.approx(
        function(prompts=["say a"], completions=["ab"], completion_ids=[[]])[0], abs=1e-4
    )
    assert len(read) == 6


def test_normalised_and_clipped(judge):
    raw = torch.tensor(asked(loaded(judge)), dtype=torch.float64)
    [checkpoint] = (judge / "checkpoints").iterdir()
    facts = json.loads((checkpoint / "reward" / "facts.json").read_text())
    got = torch.tensor(asked(loaded(judge, normalise="held_out")), dtype=torch.float64)
    assert_close(got, (raw - facts["mean"]) / facts["std"])
    held = torch.tensor(asked(loaded(judge, normalise="held_out", clip=0.5)), dtype=torch.float64)
    assert_close(held, got.clamp(-0.5, 0.5))
    assert float(held.max()) == 0.5


def test_what_is_made_of_an_ensemble(judges):
    function = loaded(judges)
    heads = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    # mean 3; variance ((−2)² + (−1)² + 3²) / 3 = 14/3
    for options, expected in (
        ({}, 3.0),
        ({"ensemble": "worst"}, 1.0),
        ({"ensemble": "penalised", "penalty": 0.3}, 3.0 - 0.3 * 14 / 3),
    ):
        function = loaded(judges, **options)
        assert function._finished(heads).tolist() == pytest.approx([expected])


def test_the_policy_learns_from_it_and_its_score_rises(judge, model, tmp_path):
    groups = {
        "reward": {
            "functions": [
                {"function": str(judge), "options": {"normalise": "held_out", "clip": 5.0}},
                {"function": "regex", "weight": 0.0, "options": {"pattern": "a"}},
            ]
        },
        "run": {"folder": str(tmp_path / "run"), "rounds": 12, "completions_per_round": 32, "trackers": []},
    }
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"say {c}"}) + "\n" for c in LETTERS[:8]))
    config = parse(
        RlConfig, rl_values(tmp_path / "run", model, data={"source": str(tmp_path / "p.jsonl")}, **groups)
    )
    run = train_rl(config, console=quiet())
    scores = run.column("rewards/likes-a/mean")
    assert scores[-1] > scores[0] + 0.5
    assert run.column("rewards/regex/mean")[-1] > run.column("rewards/regex/mean")[0]
    assert "reward_metrics/likes-a_cut_off" not in run.metrics[-1]


def test_in_python_and_with_an_ensemble(judges, model, tmp_path):
    run = ventaja.rl(
        model={"name": str(model), "precision": "float32", "device": "cpu"},
        prompts=[f"say {c}" for c in LETTERS[:4]],
        reward={"function": str(judges), "options": {"ensemble": "penalised"}},
        rounds=1,
        folder=tmp_path / "run",
        sampling={"max_tokens": 4},
        run={"completions_per_round": 16, "trackers": []},
    )
    assert run.metrics[-1]["reward_metrics/three_spread"] > 0
    assert "rewards/three/mean" in run.metrics[-1]


def test_a_critic_begins_with_its_rewards(judge, model, tmp_path):
    groups = {
        "reward": {"functions": [{"function": str(judge)}]},
        "algorithm": {"name": "ppo", "group_size": 1},
        "critic": {"model": str(judge)},
        "run": {"folder": str(tmp_path / "run"), "rounds": 2, "completions_per_round": 16, "trackers": []},
    }
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"say {c}"}) + "\n" for c in LETTERS[:8]))
    config = parse(
        RlConfig, rl_values(tmp_path / "run", model, data={"source": str(tmp_path / "p.jsonl")}, **groups)
    )
    run = train_rl(config, console=quiet())
    first = run.metrics[0]
    assert first["value/min"] < first["value/max"]  # a new head gives every token 0
    values = {"resume": True, "rounds": 3}
    config = parse(
        RlConfig,
        rl_values(
            tmp_path / "run", model, data={"source": str(tmp_path / "p.jsonl")},
            **groups | {"run": groups["run"] | values},
        ),
    )  # fmt: skip
    assert len(train_rl(config, console=quiet()).metrics) == 3


# ---------------------------------------------------------------------- bad input


def other_tokenizer():
    words = tokenizer()
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    turned = [*VOCABULARY[:2], *VOCABULARY[:1:-1]]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(turned)}, merges=[]))
    inner.decoder = decoders.Fuse()
    assert len(turned) == len(words)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def test_a_reward_model_of_another_tokenizer(judge, tmp_path):
    llama().save_pretrained(tmp_path / "other")
    other_tokenizer().save_pretrained(tmp_path / "other")
    arguments = {
        "model": {"name": str(tmp_path / "other"), "precision": "float32", "device": "cpu"},
        "prompts": ["say a"],
        "rounds": 1,
        "sampling": {"max_tokens": 4},
        "run": {"completions_per_round": 8, "trackers": []},
    }
    with pytest.raises(ConfigError, match=r"another tokenizer than .*\(30 of its 32 tokens.*read: text"):
        ventaja.rl(reward=str(judge), folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
    run = ventaja.rl(
        reward={"function": str(judge), "options": {"read": "text"}}, folder=tmp_path / "run", **arguments
    )
    assert len(run.metrics) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "worst"}, "ensemble: worst would have no effect, for .* has one head"),
        ({"penalty": 2.0}, "penalty would have no effect"),
        ({"normalize": "held_out"}, "normalize: no such setting. Did you mean 'normalise'"),
        ({"clip": -1}, "clip: must be above 0"),
    ],
)
def test_options_that_do_not_fit(options, message, judge):
    with pytest.raises(ConfigError, match=message):
        loaded(judge, **options)


def test_it_scores_whole_answers(judge):
    with pytest.raises(ConfigError, match="scores whole answers, so steps cannot be set"):
        make_reward(str(judge), name=None, weight=1.0, options={}, steps="line")


def test_nothing_held_out_nothing_to_normalise_by(model, tmp_path):
    reward(tmp_path / "run", model, eval={"fraction": 0.0}, run={"updates": 1})
    with pytest.raises(ConfigError, match="normalise: held_out needs the mean and spread"):
        loaded(tmp_path / "run", normalise="held_out")


def test_a_policy_is_no_reward(model):
    config = parse(RlConfig, rl_values(Path("run"), model, reward={"functions": [str(model)]}))
    with pytest.raises(ModelError, match="is no reward model"):
        load_rewards(config.reward, "given.jsonl")
    with pytest.raises(ModelError, match="does not exist"):
        make_reward("runs/nowhere", name=None, weight=1.0, options={})


def test_long_prompts_are_said(judge):
    from ventaja.errors import DataError

    function = loaded(judge)
    assert isinstance(function, ModelReward)
    with pytest.raises(
        DataError, match="the prompt has 84 tokens, and prompt and answer together may have 64"
    ):
        function(prompts=["say " + "a" * 80], completions=["a"], completion_ids=[[2]])
