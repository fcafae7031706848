"""What a reward model reads of a prompt and an answer: one way, in training, in measuring and in reinforcement learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ventaja.errors import DataError
from ventaja.models.chat import Tokenizer, render_example, render_prompt
from ventaja.models.policy import Policy
from ventaja.records import Answer, Example, Message, Prompt


@dataclass(frozen=True, kw_only=True)
class JudgedTokens:
    """A prompt and an answer as token ids; the score is read after the answer's last."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    is_cut: bool
    """True if it was longer than the reward model reads, so that its end is not there."""


def judged_tokens(
    network: Policy,
    prompt: Prompt,
    answer: Answer,
    *,
    max_tokens: int | None,
    is_same: bool | None = None,
    prompt_ids: tuple[int, ...] | None = None,
) -> JudgedTokens:
    """The tokens from which `network` judges an answer.

    The prompt is rendered as for sampling (`prompt_ids`, if that has been done already). The answer's token ids are taken as they were sampled if they are this
    tokenizer's: if `is_same` says so, or, where it is None, if they decode to the answer's text. Otherwise its text is encoded
    as supervised tuning encodes it, and the end that the chat template puts behind an answer (of text: the end of text) comes
    after it. An answer that was cut off as it was sampled has no end. What goes beyond `max_tokens` is cut off.

    Raises DataError if the prompt alone leaves no room for an answer.
    """
    prompt_ids = prompt_ids or render_prompt(network.tokenizer, prompt)
    if max_tokens is not None and len(prompt_ids) >= max_tokens:
        raise DataError(
            f"{prompt.id}: the prompt has {len(prompt_ids)} tokens, and prompt and answer together may have {max_tokens}."
        )
    if is_same or (is_same is None and _are_own(network, answer)):
        ids = tuple(answer.token_ids or ())
    else:
        ids = encoded_answer(network, prompt, answer.text)
    room = None if max_tokens is None else max_tokens - len(prompt_ids)
    return JudgedTokens(
        prompt_ids=prompt_ids, answer_ids=ids[:room], is_cut=room is not None and len(ids) > room
    )


def encoded_answer(network: Policy, prompt: Prompt, text: str) -> tuple[int, ...]:
    """An answer's text as tokens, with the end that follows it."""
    if text == "":  # nothing but its end; an example has at least one character
        return encoded_answer(network, prompt, ".")[-1:]
    if isinstance(prompt.content, str):
        return _answer_of(network, Example(id=prompt.id, prompt=prompt.content, completion=text))
    turn = Message(role="assistant", content=text)
    return _answer_of(network, Example(id=prompt.id, prompt=prompt.content, completion=(turn,)))


def _answer_of(network: Policy, example: Example) -> tuple[int, ...]:
    tokens = render_example(network.tokenizer, example, eos_ids=network.eos_ids)
    return tokens.token_ids[tokens.is_action.index(True) :]


def _are_own(network: Policy, answer: Answer) -> bool:
    """True if the answer has token ids that mean its text to this tokenizer (up to a stop string, where one ended it)."""
    ids = answer.token_ids
    if not ids or max(ids) >= network.vocabulary or min(ids) < 0:
        return False
    decoded = str(network.tokenizer.decode(list(ids), skip_special_tokens=True))
    return decoded.startswith(answer.text)


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """True if every token of `other` is one of `one`, with the same number."""
    ours = one.get_vocab()
    return all(ours.get(word) == number for word, number in other.get_vocab().items())


def differing_tokens(one: Tokenizer, other: Tokenizer) -> int:
    """How many of the tokens of `other` have another number in `one`, or none."""
    ours = one.get_vocab()
    return sum(ours.get(word) != number for word, number in other.get_vocab().items())


def longest(network: Policy, wanted: int | None) -> int | None:
    """`wanted`, or what the model takes if that is less, or nothing is wanted."""
    limits: Sequence[int] = [n for n in (wanted, network.context_length) if n is not None]
    return min(limits, default=None)
