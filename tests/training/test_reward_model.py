"""Reward models and DPO from rankings: losses by hand and by transformers, learning, resuming to the bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tiny_task import LETTERS, assert_same_run, metrics, quiet, tokenizer
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ventaja.errors import ConfigError, DataError, ModelError, RunError
from ventaja.records import Answer, Prompt, Ranking
from ventaja.training import DpoConfig, RewardModelConfig, parse, train_dpo, train_reward_model


def ranking(letter, texts, order, **more):
    answers = tuple(t if isinstance(t, Answer) else Answer(text=t) for t in texts)
    prompt = Prompt(id=f"p:{letter}", content=f"say {letter}")
    return Ranking(prompt=prompt, answers=answers, order=order, **more)


def by_share_of_a(count=12, *, seed=0, k=4, line=True):
    """Answers ranked by how many of their letters are a: ties where that is equal, acceptable from half on."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        texts = {"".join(random.choice(list("abc"), size=4)) for _ in range(k)}
        texts = sorted(texts)
        shares = [text.count("a") for text in texts]
        order = tuple(
            tuple(j for j, own in enumerate(shares) if own == share)
            for share in sorted(set(shares), reverse=True)
        )
        good = sum(share >= 2 for share in set(shares))
        made.append(ranking(LETTERS[i % 26] + "?" * (i // 26), texts, order, line=good if line else None))
    return made


def values(folder, model, /, **groups):
    made = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": {"source": "given.jsonl"},
        "eval": {"fraction": 0.25},
        "optimiser": {"learning_rate": 3e-3},
        "run": {"folder": str(folder), "updates": 4, "batch_size": 4, "trackers": []},
    }
    for name, group in groups.items():
        made[name] = {**made.get(name, {}), **group}
    return made


def reward(folder, model, /, rankings=None, **groups):
    config = parse(RewardModelConfig, values(folder, model, **groups))
    return train_reward_model(config, rankings=rankings or by_share_of_a(), console=quiet())


def dpo(folder, model, /, rankings=None, **groups):
    config = parse(DpoConfig, values(folder, model, **groups))
    return train_dpo(config, rankings=rankings or by_share_of_a(), console=quiet())


def by_transformers(folder, prompt, texts):
    """Scores of a prompt's answers with their ends, by transformers alone, each by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [
            float(model(torch.tensor([words(prompt + t)["input_ids"] + [words.eos_token_id]])).logits[0, 0])
            for t in texts
        ]


# ---------------------------------------------------------------------- reward models


def test_it_learns_and_transformers_scores_what_it_learned(model, tmp_path):
    run = reward(tmp_path / "run", model, by_share_of_a(60), run={"updates": 60, "batch_size": 8})
    losses = run.column("loss")
    assert losses[0] > 2
    assert run.column("accuracy")[-1] > 0.9
    assert run.column("eval/accuracy")[-1] > 0.85
    scores = by_transformers(run.last_checkpoint, "say e", ["aaaa", "abab", "bcbc"])
    assert min(scores[:2]) > scores[2] + 1
    facts = json.loads((run.last_checkpoint / "reward" / "facts.json").read_text())
    held_out = json.loads((run.path / "held_out.json").read_text())
    assert facts["answers"] == held_out["answers"] > 20
    assert held_out["line"]["accuracy"] > 0.8


def test_the_first_loss_is_that_of_equal_scores(model, tmp_path):
    # a head that gives all answers 0, the line too: 3 in order, a line before the last, is 4! orders to 1
    given = [ranking(letter, ["a", "b", "c"], ((0,), (1,), (2,)), line=2) for letter in "abcd"]
    # and 1 before a tie of 2, without a line: 1/3
    given += [ranking(letter, ["a", "b", "c"], ((1,), (0, 2))) for letter in "efgh"]
    run = reward(tmp_path / "run", model, given, eval={"fraction": 0.0}, run={"updates": 1, "batch_size": 8})
    assert run.column("loss") == [pytest.approx((math.log(24) + math.log(3)) / 2, rel=1e-6)]
    assert run.column("accuracy") == [0.5]
    assert not (run.path / "held_out.json").exists()


def test_a_weight_counts(model, tmp_path):
    given = [
        ranking("a", ["a", "b", "c"], ((0,), (1,), (2,)), weight=3.0),
        ranking("b", ["a", "b"], ((0,), (1,))),
    ]
    run = reward(tmp_path / "run", model, given, eval={"fraction": 0.0}, run={"updates": 1})
    assert run.column("loss") == [pytest.approx((3 * math.log(6) + math.log(2)) / 4, rel=1e-6)]


def test_however_rows_are_cut_the_update_is_the_same(model, tmp_path):
    def weights(name, **groups):
        run = reward(tmp_path / name, model, run={"updates": 3}, eval={"fraction": 0.0}, **groups)
        return run, AutoModelForSequenceClassification.from_pretrained(run.last_checkpoint).state_dict()

    (wide, one), (narrow, two) = weights("wide"), weights("narrow", optimiser={"max_tokens": 8})
    assert wide.column("loss") == pytest.approx(narrow.column("loss"), rel=1e-4)
    for name in one:
        assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def test_answers_of_several_raters_are_computed_once(model, tmp_path):
    texts = ["aa", "ab", "bb"]
    given = [
        ranking("z", texts, ((0,), (1,), (2,)), rater="ada"),
        ranking("z", texts[::-1], ((2,), (1,), (0,)), rater="ben"),  # the same, shown in another order
        ranking("z", texts, ((2,), (1,), (0,)), rater="cyd"),  # full disagreement
    ]
    run = reward(tmp_path / "run", model, given, eval={"fraction": 0.0}, run={"updates": 1})
    assert run.column("answers") == [3.0]
    assert run.column("rankings") == [3.0]


def test_two_raters_in_full_disagreement_teach_nothing(model, tmp_path):
    texts = ["aa", "bb"]
    given = [ranking("z", texts, ((0,), (1,))), ranking("z", texts, ((1,), (0,)))]
    run = reward(tmp_path / "run", model, given, eval={"fraction": 0.0}, run={"updates": 3})
    assert run.column("loss") == pytest.approx([math.log(2)] * 3, rel=1e-5)
    assert run.column("grad_norm") == pytest.approx([0.0] * 3, abs=1e-6)


def test_reliabilities_find_the_careless_rater(model, tmp_path):
    honest = by_share_of_a(40, line=False)
    given = []
    for i, r in enumerate(honest):
        order = r.order if i % 4 else r.order[::-1]
        given.append(ranking(r.prompt.content[4:], r.answers, order, rater="ada" if i % 4 else "rob"))
    run = reward(
        tmp_path / "run", model, given, ranking={"raters": "reliability"}, head={"learning_rate": 0.1},
        run={"updates": 100, "batch_size": 10},
    )  # fmt: skip
    raters = json.loads((run.path / "held_out.json").read_text())["raters"]
    assert raters["ada"] > 0.9
    # began at 0.9, and the prior counts as much as 9 rankings for it, against the 7 or 8 that were turned over
    assert raters["rob"] < 0.75


def test_an_ensemble_says_how_sure_it_is(model, tmp_path):
    run = reward(tmp_path / "run", model, by_share_of_a(40), head={"ensemble": 3}, run={"updates": 8})
    found = json.loads((run.path / "held_out.json").read_text())["ensemble"]
    assert found["heads"] == 3
    assert len(set(found["accuracies"])) > 1
    assert found["spread"] > 0.01
    from ventaja.models import load_reward_model

    assert load_reward_model(str(run.last_checkpoint)).heads.heads == 3


@pytest.mark.parametrize("raters", ["weight", "reliability"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_same(precision, raters, model, tmp_path):
    groups = {
        "model": {"precision": precision}, "ranking": {"raters": raters, "centring": 0.1, "margin": 0.2},
        "head": {"ensemble": 2}, "eval": {"fraction": 0.25, "every": 2},
    }  # fmt: skip
    reward(tmp_path / "one", model, run={"updates": 6}, **groups)
    reward(tmp_path / "two", model, run={"updates": 3}, **groups)
    reward(tmp_path / "two", model, run={"updates": 6, "resume": True}, **groups)
    # the shorter run measured at its end too
    again = [
        {k: v for k, v in line.items() if i != 2 or not k.startswith("eval/")}
        for i, line in enumerate(metrics(tmp_path / "two"))
    ]
    assert again == metrics(tmp_path / "one")
    (tmp_path / "two" / "metrics.jsonl").write_text((tmp_path / "one" / "metrics.jsonl").read_text())
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_adapters_learn_and_resume(model, tmp_path):
    pytest.importorskip("peft")
    groups = {"model": {"lora": {"rank": 2}}, "eval": {"fraction": 0.0}, "optimiser": {"learning_rate": 1e-2}}
    reward(tmp_path / "one", model, run={"updates": 4}, **groups)
    reward(tmp_path / "two", model, run={"updates": 2}, **groups)
    reward(tmp_path / "two", model, run={"updates": 4, "resume": True}, **groups)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    scores = by_transformers(tmp_path / "one" / "checkpoints" / "000004", "say e", ["aaaa", "bcbc"])
    assert scores[0] != scores[1]


def test_training_goes_on_from_a_reward_model(model, tmp_path):
    first = reward(tmp_path / "one", model, run={"updates": 20, "batch_size": 8})
    second = reward(tmp_path / "two", tmp_path / "one", run={"updates": 1, "batch_size": 8})
    assert second.column("loss")[0] < first.column("loss")[0] - 0.3
    with pytest.raises(ConfigError, match=r"head.ensemble is 3, but .* has 1"):
        reward(tmp_path / "three", tmp_path / "one", head={"ensemble": 3})


def test_held_out_prompts_are_not_trained_on(model, tmp_path):
    given = [*by_share_of_a(8), *by_share_of_a(8, seed=1)]  # two rankings for each prompt
    run = reward(tmp_path / "run", model, given, run={"updates": None, "epochs": 1, "batch_size": 1})
    assert len(run.metrics) == 6  # of 8 prompts, 2 are held out with all of their rankings
    found = json.loads((run.path / "held_out.json").read_text())
    assert found["prompts"] == 2
    assert found["rankings"] == 4


# ---------------------------------------------------------------------- DPO


def logprob(model, words, prompt, text):
    """Of an answer and its end, by transformers alone."""
    asked, said = words(prompt)["input_ids"], words(text)["input_ids"] + [words.eos_token_id]
    logits = model(torch.tensor([asked + said])).logits[0].log_softmax(-1)
    return sum(logits[len(asked) - 1 + t, token] for t, token in enumerate(said))


def test_dpo_on_pairs_is_plain_dpo(model, tmp_path):
    pairs = [("a", "aa", "bb"), ("b", "ca", "b"), ("c", "a", "cccc")]
    given = [ranking(letter, [worse, better], ((1,), (0,))) for letter, better, worse in pairs]
    run = dpo(
        tmp_path / "run", model, given, dpo={"beta": 0.3}, eval={"fraction": 0.0},
        run={"updates": 2, "batch_size": 3}, optimiser={"max_grad_norm": None, "learning_rate": 1e-2},
    )  # fmt: skip
    network, words = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    reference = AutoModelForCausalLM.from_pretrained(model)
    adamw = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    losses, norms = [], []
    for _ in range(2):
        terms = []
        for letter, better, worse in pairs:
            ratio = [
                logprob(network, words, f"say {letter}", text)
                - logprob(reference, words, f"say {letter}", text).detach()
                for text in (better, worse)
            ]
            terms.append(-torch.nn.functional.logsigmoid(0.3 * (ratio[0] - ratio[1])))
        loss = torch.stack(terms).mean()
        adamw.zero_grad()
        loss.backward()
        norms.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
        )
        adamw.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert run.column("loss") == pytest.approx(losses, abs=1e-5)
    assert run.column("grad_norm") == pytest.approx(norms, rel=1e-3)


def test_dpo_learns_from_whole_rankings(model, tmp_path):
    run = dpo(tmp_path / "run", model, by_share_of_a(40), run={"updates": 60, "batch_size": 8})
    assert run.column("loss")[-1] < run.column("loss")[0] - 0.5
    assert run.column("eval/accuracy")[-1] > 0.8
    network, words = AutoModelForCausalLM.from_pretrained(run.last_checkpoint), tokenizer()
    with torch.no_grad():
        assert logprob(network, words, "say e", "aaaa") > logprob(network, words, "say e", "bcbc")


def test_a_resumed_dpo_run_is_the_same(model, tmp_path):
    groups = {"eval": {"fraction": 0.25}, "model": {"precision": "bfloat16"}}
    dpo(tmp_path / "one", model, run={"updates": 4}, **groups)
    dpo(tmp_path / "two", model, run={"updates": 2}, **groups)
    dpo(tmp_path / "two", model, run={"updates": 4, "resume": True}, **groups)
    (tmp_path / "two" / "metrics.jsonl").write_text(
        "".join(
            json.dumps({k: v for k, v in line.items() if i != 1 or "eval" not in k}) + "\n"
            for i, line in enumerate(
                map(json.loads, (tmp_path / "two" / "metrics.jsonl").read_text().splitlines())
            )
        )
    )
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_dpo_with_adapters(model, tmp_path):
    pytest.importorskip("peft")
    groups = {"model": {"lora": {"rank": 2}}, "eval": {"fraction": 0.0}}
    dpo(tmp_path / "one", model, run={"updates": 4}, **groups)
    dpo(tmp_path / "two", model, run={"updates": 2}, **groups)
    dpo(tmp_path / "two", model, run={"updates": 4, "resume": True}, **groups)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    losses = [line["loss"] for line in metrics(tmp_path / "one")]
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------------- bad input


def test_what_cannot_be_learned_from_is_set_aside(model, tmp_path):
    given = [
        *by_share_of_a(4),
        ranking("x", ["ab", "ab"], ((0,), (1,))),
        ranking("y", ["ab", "b"], ((0, 1),)),
        ranking("z" * 70, ["ab", "b"], ((0,), (1,))),
        ranking("q" * 40, ["ab" * 20, "ab" * 20 + "c"], ((0,), (1,))),
    ]
    run = reward(tmp_path / "run", model, given, eval={"fraction": 0.0}, run={"updates": 1})
    lines = [json.loads(line) for line in (run.path / "set_aside.jsonl").read_text().splitlines()]
    assert [line["why"] for line in lines] == [
        "answers 0 and 1 are the same as tokens, and one is ranked above the other",
        "all answers are tied and no line is drawn, so it says nothing",
        f"p:{'z' * 70}: the prompt has 74 tokens, and prompt and answer together may have 64.",
        "answers 0 and 1 are the same once their ends are cut off, and one is ranked above the other",
    ]
    assert lines[0]["answers"] == ["ab", "ab"]


def test_nothing_left_is_an_error(model, tmp_path):
    with pytest.raises(
        DataError, match="no ranking is left to train on. The first: answers 0 and 1 are the same"
    ):
        reward(tmp_path / "run", model, [ranking(x, ["a", "a"], ((0,), (1,))) for x in "abcd"])
    with pytest.raises(ConfigError, match="the rankings are of 1 prompt, and all of them are held out"):
        reward(tmp_path / "run", model, [ranking("x", ["a", "b"], ((0,), (1,)))])
    assert not (tmp_path / "run").exists()


def test_a_reward_models_run_is_no_policys(model, tmp_path):
    reward(tmp_path / "run", model)
    with pytest.raises(ModelError, match="is a reward model"):
        dpo(tmp_path / "other", tmp_path / "run")
    with pytest.raises(
        RunError, match="this is a run of `ventaja reward`, and `ventaja dpo` cannot go on with it"
    ):
        dpo(tmp_path / "run", model, run={"resume": True})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"run": {"updates": 3, "epochs": 2}}, "run.epochs would have no effect"),
        ({"eval": {"fraction": 0.3, "source": "held.jsonl"}}, "eval.fraction would have no effect"),
        ({"eval": {"fraction": 0.0, "every": 3}}, "eval.every would have no effect"),
    ],
)
def test_settings_without_effect_are_refused(groups, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        parse(RewardModelConfig, values(tmp_path / "run", "m", **groups))
