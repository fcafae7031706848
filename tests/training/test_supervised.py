"""Supervised tuning: the loss over the answers' tokens, by transformers' own logits."""

from __future__ import annotations

import pytest
import torch
from tiny_task import examples, llama, metrics, model_folder, quiet, run_sft, tokenizer

from ventaja.errors import DataError
from ventaja.records import Example
from ventaja.training import SftConfig, parse, train_sft

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + ': ' + m['content'] + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a: ' }}{% endif %}"
)


def config(folder, model, /, **groups):
    values = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": {"source": "given.jsonl"},
        "run": {"folder": str(folder), "updates": 1, "batch_size": 3, "trackers": []},
    }
    for name, group in groups.items():
        values[name] = {**values.get(name, {}), **group}
    return parse(SftConfig, values)


def nll(pairs):
    """Mean of −log p over every answer's tokens, from transformers alone."""
    model, words = llama(), tokenizer()
    terms = []
    for prompt, answer in pairs:
        asked = words(prompt)["input_ids"]
        ids = asked + words(answer)["input_ids"] + [words.eos_token_id]
        with torch.no_grad():
            logprob = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        terms += [-logprob[t - 1, ids[t]].item() for t in range(len(asked), len(ids))]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("count", [1, 4])
def test_one_example_may_fill_a_batch(count, model, tmp_path):
    prompt = "say a" + "?" * 30  # so long that it is worth sharing
    given = [Example(id=f"e:{i}", prompt=prompt, completion="aa") for i in range(count)]
    train_sft(config(tmp_path / "run", model, run={"batch_size": 4}), examples=given, console=quiet())
    (line,) = metrics(tmp_path / "run")
    assert line["loss"] == pytest.approx(nll([(prompt, "aa")]), rel=1e-5)


def test_the_loss_is_that_of_transformers(model, tmp_path):
    given = examples(3)
    train_sft(config(tmp_path / "run", model), examples=given, console=quiet())
    (line,) = metrics(tmp_path / "run")
    expected = nll([(e.prompt, e.completion) for e in given])
    assert line["loss"] == pytest.approx(expected, rel=1e-5)
    assert line["tokens"] == sum(len(e.completion) + 1 for e in given)  # their ends are learnt too


def test_micro_batches_do_not_change_the_loss(model, tmp_path):
    train_sft(config(tmp_path / "one", model), examples=examples(3), console=quiet())
    cut = config(tmp_path / "two", model, optimiser={"max_tokens": 1})
    train_sft(cut, examples=examples(3), console=quiet())
    one, two = (metrics(tmp_path / name)[0] for name in ("one", "two"))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


def test_messages_go_through_the_template_and_only_answers_are_learnt(model, tmp_path):
    turns = [("user", "hi?"), ("assistant", "yes"), ("user", "why?"), ("assistant", "no")]
    messages = [{"role": role, "content": content} for role, content in turns]
    example = Example(id="e", prompt=tuple(messages[:1]), completion=tuple(messages[1:]))
    chat = config(
        tmp_path / "run", model, model={"chat_template": TEMPLATE}, run={"updates": 1, "batch_size": 1}
    )
    train_sft(chat, examples=[example], console=quiet())
    (line,) = metrics(tmp_path / "run")
    # the same two answers, each after all that stands before it
    first = ("u: hi?<eos>a: ", "yes")
    second = ("u: hi?<eos>a: yes<eos>u: why?<eos>a: ", "no")
    assert line["tokens"] == len("yes") + 1 + len("no") + 1
    assert line["loss"] == pytest.approx(nll([first, second]), rel=1e-5)


def test_the_loss_falls(model, tmp_path):
    run_sft(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "updates": 30, "trackers": []})
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    # which of three lengths an answer has is told by its prompt's letter, and the rest is certain
    assert losses[0] > 2.5
    assert losses[-1] < 0.4


def test_epochs_count_passes(model, tmp_path):
    def steps(**run):
        folder = tmp_path / str(run)
        values = config(folder, model).model_dump()
        values["run"] = {"folder": str(folder), "trackers": [], **run}
        train_sft(parse(SftConfig, values), examples=examples(6), console=quiet())
        return len(metrics(folder))

    assert steps(epochs=2, batch_size=3) == 4
    assert steps(updates=3, batch_size=2) == 3
    assert steps(batch_size=16) == 1  # fewer examples than one batch


def test_long_prompts_are_left_out_or_an_error(model, tmp_path):
    given = [*examples(2), Example(id="long", prompt="x" * 30, completion="a")]
    left = config(tmp_path / "left", model, data={"max_prompt_tokens": 20})
    train_sft(left, examples=given, console=quiet())
    none = config(tmp_path / "none", model, data={"max_prompt_tokens": 2})
    with pytest.raises(DataError, match="no example is left: all 3 prompts are longer than 2 tokens"):
        train_sft(none, examples=given, console=quiet())
    small = model_folder(tmp_path / "small", context=16)
    with pytest.raises(DataError, match=r"long: the example has 32 tokens, but .* takes 16") as error:
        train_sft(config(tmp_path / "over", small), examples=given, console=quiet())
    assert "data.max_prompt_tokens" in str(error.value)
    assert not (tmp_path / "over").exists()  # a mistake leaves no folder behind


def test_the_learning_rate_does_not_depend_on_other_settings(tmp_path):
    plain = config(tmp_path, "m").optimiser
    assert plain.learning_rate == 2e-5
    assert config(tmp_path, "m", optimiser={"max_tokens": 64}).optimiser.learning_rate == 2e-5
