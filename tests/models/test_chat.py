"""Text to tokens: what is sampled after is what is trained after, and only answers are actions."""

from __future__ import annotations

import pytest
from tiny import EOS, START, make_tokenizer

from ventaja.errors import DataError
from ventaja.models import TokenizedExample, render_example, render_prompt
from ventaja.records import Example, Message, Prompt

ENDS = frozenset({EOS})


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def told(tokens: TokenizedExample) -> list[tuple[str, bool]]:
    """The example as stretches of text, and whether they are the answer's."""
    stretches: list[tuple[list[int], bool]] = []
    for token, action in zip(tokens.token_ids, tokens.is_action, strict=True):
        if not stretches or stretches[-1][1] != action:
            stretches.append(([], action))
        stretches[-1][0].append(token)
    return [(make_tokenizer().decode(ids), action) for ids, action in stretches]


def test_a_chat_prompt_ends_where_the_answer_begins() -> None:
    ids = render_prompt(make_tokenizer(), Prompt(id="p", content=(turn("user", "hola"),)))
    assert make_tokenizer().decode(ids) == "<|start|>user\nhola<|end|><|start|>assistant\n"


def test_only_the_answer_and_its_end_are_actions() -> None:
    example = Example(id="e", prompt=(turn("user", "2+2"),), completion=(turn("assistant", "4"),))
    assert told(render_example(make_tokenizer(), example, eos_ids=ENDS)) == [
        ("<|start|>user\n2+2<|end|><|start|>assistant\n", False),
        ("4<|end|>", True),
    ]


def test_of_several_turns_every_answer_after_the_prompt_is_learned() -> None:
    example = Example(
        id="e",
        prompt=(turn("user", "a"), turn("assistant", "given"), turn("user", "b")),
        completion=(turn("assistant", "one"), turn("user", "c"), turn("assistant", "two")),
    )
    assert told(render_example(make_tokenizer(), example, eos_ids=ENDS)) == [
        (
            "<|start|>user\na<|end|><|start|>assistant\ngiven<|end|><|start|>user\nb<|end|><|start|>assistant\n",
            False,
        ),
        ("one<|end|>", True),
        ("<|start|>user\nc<|end|><|start|>assistant\n", False),
        ("two<|end|>", True),
    ]


@pytest.mark.parametrize("starts", [False, True])
def test_text_is_encoded_as_the_tokenizer_does(starts: bool) -> None:
    tokenizer = make_tokenizer(starts=starts)
    tokens = render_example(tokenizer, Example(id="e", prompt="ab", completion="cd"), eos_ids=ENDS)
    a, b, c, d = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    prompt = [START, a, b] if starts else [a, b]  # a start token begins the text, and never the answer
    assert list(tokens.token_ids) == [*prompt, c, d, EOS]
    assert list(tokens.is_action) == [False] * len(prompt) + [True] * 3


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("prompt", ["what?", (turn("system", "be brief"), turn("user", "what?"))])
def test_training_and_sampling_see_the_same_prompt(prompt: str | tuple[Message, ...], starts: bool) -> None:
    tokenizer = make_tokenizer(starts=starts)
    answer = "that" if isinstance(prompt, str) else (turn("assistant", "that"),)
    tokens = render_example(tokenizer, Example(id="e", prompt=prompt, completion=answer), eos_ids=ENDS)
    sampled = render_prompt(tokenizer, Prompt(id="p", content=prompt))
    assert tokens.token_ids[: tokens.is_action.index(True)] == sampled
    if not isinstance(prompt, str):  # the template writes the special tokens itself, once
        assert sampled.count(START) == 3
        assert sampled[:2].count(START) == 1


def test_an_answer_ends_with_a_token_at_which_the_model_stops() -> None:
    example = Example(id="e", prompt="a", completion="b")
    ends = {
        frozenset({EOS, 7}): EOS,  # the tokenizer's own, where the model knows it
        frozenset({9, 7}): 7,  # else one of the model's
        frozenset[int](): EOS,
    }
    for eos_ids, end in ends.items():
        assert render_example(make_tokenizer(), example, eos_ids=eos_ids).token_ids[-1] == end


def test_a_chat_needs_a_template() -> None:
    tokenizer = make_tokenizer(chat_template=None)
    with pytest.raises(DataError, match=r"train.jsonl:3: .*no chat template.*plain-text"):
        render_prompt(tokenizer, Prompt(id="train.jsonl:3", content=(turn("user", "hi"),)))


def test_a_prompt_needs_tokens() -> None:
    with pytest.raises(DataError, match="p: the prompt has no tokens"):
        render_prompt(make_tokenizer(), Prompt(id="p", content=""))


@pytest.mark.parametrize("starts", [False, True])
def test_text_alone_is_an_answer_from_its_second_token_on(starts: bool) -> None:
    tokenizer = make_tokenizer(starts=starts)
    tokens = render_example(tokenizer, Example(id="e", prompt="", completion="ab"), eos_ids=ENDS)
    a, b = tokenizer("ab", add_special_tokens=False)["input_ids"]
    # a token that begins every text is given; without one, the first of the text itself is
    assert list(tokens.token_ids) == ([START, a, b, EOS] if starts else [a, b, EOS])
    assert list(tokens.is_action) == [False] + [True] * (3 if starts else 2)
    assert tokens.truncated(2).is_action == (False, True)


def test_a_template_that_rewrites_earlier_turns_takes_one_answer_at_a_time() -> None:
    """Some templates drop the reasoning of earlier turns once another follows."""
    tokenizer = make_tokenizer(
        chat_template="{% for m in messages %}{{ m['role'] + ':' + (m['content'] if loop.last or m['role'] == 'user' else '') }}{% endfor %}"
    )
    one = Example(id="e", prompt=(turn("user", "a"),), completion=(turn("assistant", "x"),))
    two = Example(id="e", prompt=one.prompt, completion=(*one.completion, turn("user", "b"), *one.completion))
    assert told(render_example(tokenizer, one, eos_ids=ENDS)) == [("user:a", False), ("x<|end|>", True)]
    with pytest.raises(DataError, match=r"e: .*one answer per example"):
        render_example(tokenizer, two, eos_ids=ENDS)


GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] | trim + '~\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""As Gemma's: a turn ends with a token of its own, here ~, though the model also stops at its text's end."""


def test_an_answer_in_a_chat_ends_as_the_chat_template_ends_it() -> None:
    tokenizer = make_tokenizer(chat_template=GEMMA)
    (own,) = tokenizer("~")["input_ids"]
    chat = Example(id="e", prompt=(turn("user", "2+2"),), completion=(turn("assistant", "4"),))
    text = Example(id="e", prompt="2+2", completion="4")
    assert render_example(tokenizer, chat, eos_ids=frozenset({EOS, own})).token_ids[-1] == own
    assert render_example(tokenizer, text, eos_ids=frozenset({EOS, own})).token_ids[-1] == EOS
    assert render_example(tokenizer, chat, eos_ids=ENDS).token_ids[-1] == EOS  # the model does not stop at ~


def test_what_a_template_refuses_is_said_of_the_prompt() -> None:
    chat = (turn("system", "be brief"), turn("user", "hi"))
    with pytest.raises(
        DataError, match=r"t.jsonl:3: .*System role not supported.*data.system_prompt.*model.chat_template"
    ):
        render_prompt(make_tokenizer(chat_template=GEMMA), Prompt(id="t.jsonl:3", content=chat))
    with pytest.raises(DataError, match=r"t.jsonl:3: .*template is broken in line 1: .*model.chat_template"):
        render_prompt(make_tokenizer(chat_template="{% if %}"), Prompt(id="t.jsonl:3", content=chat))


def test_a_tokenizers_own_template_has_to_read_the_chat_too() -> None:
    """Runs have been saved with a template that was only its file's name."""
    chat = (turn("user", "hi"),)
    with pytest.raises(DataError, match=r"t.jsonl:3: .*ignores its messages.*model.chat_template"):
        render_prompt(make_tokenizer(chat_template="mine.jinja"), Prompt(id="t.jsonl:3", content=chat))
    louder = make_tokenizer(chat_template="{{ messages[0]['content'] | upper }}")
    assert louder.decode(render_prompt(louder, Prompt(id="p", content=chat))) == "HI"
