"""Text to token ids and back: chat rendering, and which tokens of an example are the answer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from ventaja.errors import ConfigError, DataError, did_you_mean
from ventaja.records import Example, Message, Prompt

Tokenizer = Any
"""A transformers tokenizer; its classes share no useful static type."""


@dataclass(frozen=True, kw_only=True)
class TokenizedExample:
    """One supervised example. `is_action[t]` is True where token t is the answer's, its end included."""

    id: str
    token_ids: tuple[int, ...]
    is_action: tuple[bool, ...]

    def truncated(self, tokens: int) -> TokenizedExample:
        """The same without what comes after so many tokens."""
        return replace(self, token_ids=self.token_ids[:tokens], is_action=self.is_action[:tokens])


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt: chat messages through the chat template, text as the tokenizer encodes it."""
    if isinstance(prompt.content, str):
        ids = tokenizer(prompt.content)["input_ids"]
    else:
        ids = _render_chat(tokenizer, prompt.content, answer_follows=True, where=prompt.id)
    if not ids:
        raise DataError(
            f"{prompt.id}: the prompt has no tokens. An answer needs at least one token before it; "
            "give the prompt some text."
        )
    return tuple(ids)


def _render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, answer_follows: bool, where: str
) -> list[int]:
    if not tokenizer.chat_template:
        raise DataError(
            f"{where}: the prompt is a chat, but this model's tokenizer has no chat template. "
            "Use plain-text prompts, or an instruction-tuned model."
        )
    try:
        text = _apply_template(tokenizer, messages, answer_follows=answer_follows)
    except TemplateSyntaxError as error:
        raise DataError(
            f"{where}: this model's chat template is broken in line {error.lineno}: {error.message} "
            "Give a sound one in model.chat_template."
        ) from error
    except TemplateError as error:
        raise DataError(
            f"{where}: this model's chat template does not take the chat: {error} Change its turns, with what "
            "data.system_prompt adds, to what the template wants, or give another one in model.chat_template."
        ) from error
    if messages[-1]["content"].strip() not in text and not _hears_messages(tokenizer):
        raise DataError(
            f"{where}: this model's chat template {_DEAF} Give a sound one in model.chat_template."
        )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def read_chat_template(given: str) -> str:
    """The text of `model.chat_template`. What holds neither `{{` nor `{%` is no template, so it is a file's path.

    Raises ConfigError for a file that cannot be read.
    """
    if "{{" in given or "{%" in given:
        return given
    path = Path(given).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        beside = path.parent.glob("*.jinja*") if path.parent.is_dir() else ()
        raise ConfigError(
            f"model.chat_template: {given!r} has neither {{{{ nor {{%, so it is taken for a file, which cannot be read: "
            f"{getattr(error, 'strerror', None) or error}.{did_you_mean(given, map(str, beside))} Give a file's path, "
            "from where the command runs, or the template itself."
        ) from error


def check_chat_template(tokenizer: Tokenizer) -> None:
    """Raises ConfigError for a template that is broken, or that renders chats alike whatever is said in them."""
    try:
        hears = _hears_messages(tokenizer)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"model.chat_template is broken in line {error.lineno}: {error.message} Mend it, or leave it out for the "
            "tokenizer's own."
        ) from error
    if not hears:
        raise ConfigError(f"model.chat_template {_DEAF} Leave it out for the tokenizer's own.")


_DEAF = (
    "ignores its messages: two chats that say different things are rendered alike, so every prompt would be the same. "
    "A chat template puts in what is said, as in {% for message in messages %}{{ message['content'] }}{% endfor %}."
)


def _hears_messages(tokenizer: Tokenizer) -> bool:
    """True if what is said shows in what is rendered, or the template refuses to be asked."""
    for before in ((), (Message(role="system", content="Answer."),)):
        chats = [(*before, Message(role="user", content=text)) for text in ("How many?", "Why is it so?")]
        try:
            one, other = (_apply_template(tokenizer, chat, answer_follows=True) for chat in chats)
        except TemplateSyntaxError:
            raise
        except (TemplateError, TypeError):  # some templates take no chat like this one
            continue
        return one != other
    return True


def _apply_template(tokenizer: Tokenizer, messages: Sequence[Message], *, answer_follows: bool) -> str:
    """The chat as text. Raises jinja2.TemplateError, also where the template itself refuses the chat."""
    turns = [dict(message) for message in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_follows))


def render_example(tokenizer: Tokenizer, example: Example, *, eos_ids: frozenset[int]) -> TokenizedExample:
    """Token ids of a supervised example; the answers are the completion's assistant turns, or its text.

    Prompt and answer are encoded apart, exactly as sampling sees them, so that what is learnt is what is
    sampled later. With an empty prompt, the first token of all is given if the tokenizer puts none before a text.
    """
    if isinstance(example.prompt, str) or isinstance(example.completion, str):
        end = _end_of_text(tokenizer, eos_ids)
        ids = list(tokenizer(example.prompt)["input_ids"])
        is_action = [False] * len(ids)
        answers: list[tuple[list[int], Any]] = [(ids, example.completion)]
    else:
        turns = (*example.prompt, *example.completion)
        answers = [
            (_render_chat(tokenizer, turns[:turn], answer_follows=True, where=example.id), message["content"])
            for turn, message in enumerate(turns)
            if message["role"] == "assistant" and turn >= len(example.prompt)
        ]
        end = _end_of_turn(tokenizer, example.prompt, eos_ids)
        ids, is_action = [], []
    for before, text in answers:  # what was asked up to here, and the answer to it
        if before[: len(ids)] != ids:
            raise DataError(
                f"{example.id}: this chat template renders earlier turns differently once later ones follow, so "
                "several answers cannot be trained in one example. Split it: one answer per example."
            )
        answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], end]
        is_action += [False] * (len(before) - len(ids)) + [True] * len(answer)
        ids = before + answer
    if example.prompt == "":
        is_action[0] = False  # nothing stands before it, so nothing can predict it
    if not is_action or is_action[0]:
        raise DataError(f"{example.id}: the example has no prompt before its answer. Add one.")
    return TokenizedExample(id=example.id, token_ids=tuple(ids), is_action=tuple(is_action))


def _end_of_turn(tokenizer: Tokenizer, prompt: Sequence[Message], eos_ids: frozenset[int]) -> int:
    """The token at which the model stops that the chat template writes after an answer to `prompt`.

    In Gemma that is <end_of_turn>, in Phi-3 <|end|>, though both models also stop at their text's end.
    """
    answer = "An answer."
    turns: tuple[Message, ...] = (*prompt, {"role": "assistant", "content": answer})
    try:
        text = _apply_template(tokenizer, turns, answer_follows=False)
    except (TemplateError, ValueError):  # a template need not take answers, nor need there be one
        return _end_of_text(tokenizer, eos_ids)
    _, _, after = text.rpartition(answer) if answer in text else ("", "", "")
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((int(token) for token in ids if token in eos_ids), _end_of_text(tokenizer, eos_ids))


def _end_of_text(tokenizer: Tokenizer, eos_ids: frozenset[int]) -> int:
    """The token that ends an answer: the tokenizer's own if the model stops there, else the smallest that does."""
    own = tokenizer.eos_token_id
    if own is not None and (own in eos_ids or not eos_ids):
        return int(own)
    return min(eos_ids)
