"""Supervised tuning: the loss over the answers' tokens, by transformers' own logits."""

from __future__ import annotations

from collections import Counter
from io import StringIO

import pytest
import torch
from rich.console import Console
from tiny_task import (
    LETTERS,
    assert_same_run,
    examples,
    llama,
    metrics,
    model_folder,
    quiet,
    run_sft,
    tokenizer,
)
from transformers import LlamaForCausalLM

from ventaja.errors import ConfigError, DataError, RunError
from ventaja.records import Example
from ventaja.tracking import Run
from ventaja.training import SftConfig, parse, sft, train_sft
from ventaja.training.data import hold_out, training_examples

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


def nll(pairs, model=None):
    """Mean of −log p over every answer's tokens, from transformers alone."""
    model, words = model or llama(), tokenizer()
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


def seen_by(monkeypatch, folder, given, model, **run):
    """How often each example was in a batch, by its answer's length in tokens."""
    seen = Counter()
    original = sft.Batch.of_examples

    def noted(examples):
        seen.update(sum(example.is_action) for example in examples)
        return original(examples)

    values = config(folder, model).model_dump()
    values["run"] = {"folder": str(folder), "trackers": [], **run}
    with monkeypatch.context() as patched:
        patched.setattr(sft.Batch, "of_examples", noted)
        train_sft(parse(SftConfig, values), examples=given, console=quiet())
    return seen


def test_every_epoch_sees_every_example(model, tmp_path, monkeypatch):
    # 7 examples in batches of 4: 4 and 3, three times over; each answer's length is its own
    given = [Example(id=f"e:{i}", prompt="say:", completion="a" * i) for i in range(1, 8)]
    run = {"epochs": 3, "batch_size": 4}
    assert seen_by(monkeypatch, tmp_path / "run", given, model, **run) == {i + 1: 3 for i in range(1, 8)}
    tokens = [line["tokens"] for line in metrics(tmp_path / "run")]
    assert len(tokens) == 6
    assert tokens[0] + tokens[1] == tokens[2] + tokens[3] == 2 + 3 + 4 + 5 + 6 + 7 + 8
    # and so does a run that was given its later epochs later
    first = seen_by(monkeypatch, tmp_path / "two", given, model, **run | {"epochs": 1})
    rest = seen_by(monkeypatch, tmp_path / "two", given, model, **run, resume=True)
    assert first + rest == {i + 1: 3 for i in range(1, 8)}
    assert_same_run(tmp_path / "run", tmp_path / "two")


def test_a_weight_is_how_often_an_example_is_seen(model, tmp_path, monkeypatch):
    given = [
        Example(id=f"e:{i}", prompt="say:", completion="a" * i, weight=weight)
        for i, weight in enumerate((0.5, 0.5, 1.0, 2.0), 1)
    ]
    seen = seen_by(monkeypatch, tmp_path / "run", given, model, epochs=2, batch_size=3)
    assert seen == {2: 1, 3: 1, 4: 2, 5: 4}


def test_weights_so_small_that_nothing_is_seen(model, tmp_path):
    given = [Example(id="e", prompt="say:", completion="a", weight=0.1)]
    values = config(tmp_path / "run", model).model_dump()
    values["run"] = {"folder": str(tmp_path / "run"), "trackers": []}
    with pytest.raises(ConfigError, match=r"run.epochs: 1 epoch would use no row at all"):
        train_sft(parse(SftConfig, values), examples=given, console=quiet())
    assert not (tmp_path / "run").exists()


def test_long_prompts_are_left_out_or_an_error(model, tmp_path):
    given = [*examples(2), Example(id="long", prompt="x" * 30, completion="a")]
    left = config(tmp_path / "left", model, data={"max_prompt_tokens": 20})
    console = Console(file=StringIO(), width=200)
    train_sft(left, examples=given, console=console)
    assert "Left out: 1 example with a prompt longer than data.max_prompt_tokens." in console.file.getvalue()
    none = config(tmp_path / "none", model, data={"max_prompt_tokens": 2})
    with pytest.raises(DataError, match="no example is left: 3 prompts longer than data.max_prompt_tokens=2"):
        train_sft(none, examples=given, console=quiet())
    small = model_folder(tmp_path / "small", context=16)
    with pytest.raises(DataError, match=r"long: the example has 32 tokens, but .* takes 16") as error:
        train_sft(config(tmp_path / "over", small), examples=given, console=quiet())
    assert "Set data.too_long to truncate or to leave_out" in str(error.value)
    assert not (tmp_path / "over").exists()  # a mistake leaves no folder behind


# ---------------------------------------------------------------------- examples that are too long

LONG = [
    Example(id="short", prompt="say b:", completion="aa"),  # 6 + 2 + its end
    Example(id="long", prompt="say c:", completion="b" * 20),
    Example(id="endless", prompt="c" * 12, completion="a"),
]


@pytest.mark.parametrize(
    ("too_long", "learned", "said"),
    [
        # short: all; long: 10 - 6 tokens of its answer, and not its end; endless: nothing of its answer is left
        (
            "truncate",
            3 + 4,
            [
                "Cut after 10 tokens: 1 example (data.too_long",
                "1 example longer than 10 tokens, before any answer begins.",
            ],
        ),
        ("leave_out", 3, ["Left out: 2 examples longer than 10 tokens."]),
    ],
)
def test_examples_that_are_too_long(too_long, learned, said, model, tmp_path):
    console = Console(file=StringIO(), width=200)
    data = {"max_tokens": 10, "too_long": too_long}
    train_sft(config(tmp_path / "run", model, data=data), examples=LONG, console=console)
    assert metrics(tmp_path / "run")[0]["tokens"] == learned
    for text in said:
        assert text in console.file.getvalue()


def test_what_is_too_long_is_an_error_unless_said_otherwise(model, tmp_path):
    with pytest.raises(
        DataError, match=r"long: the example has 27 tokens, but data.max_tokens is 10. Set data.too_long"
    ):
        train_sft(config(tmp_path / "run", model, data={"max_tokens": 10}), examples=LONG, console=quiet())
    with pytest.raises(ConfigError, match=r"data.max_tokens is 65, but .* takes 64"):
        train_sft(config(tmp_path / "run", model, data={"max_tokens": 65}), examples=LONG, console=quiet())
    cut = config(tmp_path / "run", model, data={"max_tokens": 4, "too_long": "truncate"})
    with pytest.raises(
        DataError, match=r"no example is left: 3 examples longer than 4 tokens \(data.too_long"
    ):
        train_sft(cut, examples=LONG, console=quiet())


# ---------------------------------------------------------------------- text alone


def test_text_is_learned_but_for_its_first_token(model, tmp_path):
    text = Example(id="t", prompt="", completion="a cat.")
    train_sft(config(tmp_path / "run", model), examples=[text], console=quiet())
    (line,) = metrics(tmp_path / "run")
    assert line["tokens"] == len("a cat.") - 1 + 1  # nothing stands before the first; the end is learned
    assert line["loss"] == pytest.approx(nll([("a", " cat.")]), rel=1e-5)


# ---------------------------------------------------------------------- held-out examples


def held_out_config(folder, model, **more):
    run = {"folder": str(folder), "updates": 8, "batch_size": 4, "trackers": [], **more.pop("run", {})}
    return config(
        folder, model, run=run, optimiser={"learning_rate": 3e-2}, eval={"every": 2, "size": 2}, **more
    )


def test_held_out_examples_are_measured_and_not_trained_on(model, tmp_path):
    given = examples(7)
    config_ = held_out_config(tmp_path / "run", model)
    train_sft(config_, examples=given, console=quiet())
    kept, aside = hold_out(config_, given)
    assert len(kept) == 5
    assert {e.id for e in kept} | {e.id for e in aside} == {e.id for e in given}
    lines = metrics(tmp_path / "run")
    assert ["eval/loss" in line for line in lines] == [False, True] * 4
    # transformers' own loss of the saved weights
    run = Run(tmp_path / "run")
    module = LlamaForCausalLM.from_pretrained(run.last_checkpoint).eval()
    pairs = [(e.prompt, e.completion) for e in aside]
    assert lines[-1]["eval/loss"] == pytest.approx(nll(pairs, module), rel=1e-5)


def test_the_best_checkpoint_is_kept(model, tmp_path):
    # learned from answers of a's, the b's become less likely sooner or later
    given = [Example(id=f"e:{i}", prompt=f"say {c}:", completion="a") for i, c in enumerate("abcd")]
    (tmp_path / "held.jsonl").write_text('{"prompt": "say x:", "completion": "b."}\n')
    console = Console(file=StringIO(), width=200)
    config_ = held_out_config(tmp_path / "run", model, run={"checkpoint_every": 1, "updates": 12})
    config_ = config_.model_copy(
        update={"eval": config_.eval.model_copy(update={"source": str(tmp_path / "held.jsonl"), "every": 1})}
    )
    train_sft(config_, examples=given, console=console)
    losses = [line["eval/loss"] for line in metrics(tmp_path / "run")]
    best = losses.index(min(losses)) + 1
    assert 1 <= best < 12
    run = Run(tmp_path / "run")
    assert [int(path.name) for path in run.checkpoints] == [best, 12]
    assert run.best_checkpoint == run.checkpoints[0]
    assert f"after step {best}: {run.best_checkpoint}" in console.file.getvalue()
    module = LlamaForCausalLM.from_pretrained(run.best_checkpoint).eval()
    assert min(losses) == pytest.approx(nll([("say x:", "b.")], module), rel=1e-5)


def test_without_a_measurement_no_checkpoint_is_the_best(model, tmp_path):
    run = train_sft(config(tmp_path / "run", model), examples=examples(3), console=quiet())
    with pytest.raises(RunError, match="no checkpoint has an eval/loss"):
        _ = run.best_checkpoint


def test_what_cannot_be_held_out(model, tmp_path):
    with pytest.raises(ConfigError, match=r"eval: each example \(2 in all\) is held out"):
        train_sft(held_out_config(tmp_path / "run", model), examples=examples(2), console=quiet())
    with pytest.raises(ConfigError, match=r"eval.size would have no effect: set eval.every"):
        config(tmp_path / "run", model, eval={"size": 3})
    with pytest.raises(ConfigError, match=r"eval.options would have no effect: set eval.source"):
        hold_out(config(tmp_path, model, eval={"every": 1, "options": {"a": 1}}), examples(3))
    texts = [Example(id=f"t:{i}", prompt="", completion=f"text {c}") for i, c in enumerate("abc")]
    kept, aside = hold_out(config(tmp_path, model, eval={"every": 1, "size": 1}), texts)
    assert (len(kept), len(aside)) == (2, 1)  # texts are told apart, though all their prompts are empty


def test_a_generated_task_holds_out_others_of_its_kind(tmp_path):
    data = {"source": "reasoning_gym:chain_sum", "options": {"max_terms": 2}, "size": 5}
    values = {"model": "m", "data": data, "eval": {"every": 1, "size": 3}, "run": {"folder": "f"}}
    config_ = parse(SftConfig, values)
    kept, aside = hold_out(config_, training_examples(config_.data))
    assert (len(kept), len(aside)) == (5, 3)
    assert not {e.prompt[0]["content"] for e in kept} & {e.prompt[0]["content"] for e in aside}


def test_exclude_needs_prompts(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "once"}\n')
    (tmp_path / "held.jsonl").write_text('{"prompt": "once"}\n')
    data = {"source": str(tmp_path / "t.jsonl"), "exclude": [str(tmp_path / "held.jsonl")]}
    with pytest.raises(
        DataError, match=r"t.jsonl:1: data.exclude compares prompts, and this row has only text"
    ):
        training_examples(config(tmp_path, "m", data=data).data)


def test_the_learning_rate_does_not_depend_on_other_settings(tmp_path):
    plain = config(tmp_path, "m").optimiser
    assert plain.learning_rate == 2e-5
    assert config(tmp_path, "m", optimiser={"max_tokens": 64}).optimiser.learning_rate == 2e-5


def test_examples_that_share_a_held_out_prompt_are_counted(tmp_path, model):
    given = [Example(id=f"e:{i}", prompt=f"say {LETTERS[i % 3]}:", completion="ab") for i in range(12)]
    notes = []
    kept, aside = hold_out(config(tmp_path, model, eval={"every": 1, "size": 1}), given, say=notes.append)
    assert (len(kept), len(aside)) == (8, 1)
    assert notes == ["Not trained on: 3 examples with the prompt of a held-out one (eval)."]
    with pytest.raises(
        ConfigError, match=r"each example \(4 in all\) is held out, or has the prompt of one that is"
    ):
        hold_out(config(tmp_path, model, eval={"every": 1, "size": 1}), given[::3])
