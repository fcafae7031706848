"""Prompts and examples from rows: of files, of reasoning-gym's generators or of `datasets`.

Every row must be usable. The first one that is not ends the reading, with its place and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ventaja.environments._hints import kind, listed
from ventaja.environments.sources import Row, rows
from ventaja.environments.verifiers import GIVEN
from ventaja.errors import DataError, nearest
from ventaja.records import Example, Message, Prompt, read_messages
from ventaja.settings import NO_OPTIONS

_ASKING = ("question", "problem", "instruction", "query", "input", "text", "conversations", "conversation")
_ANSWERING = ("response", "answer", "output", "solution", "target", "chosen")


def load_prompts(
    source: str,
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    size: int | None = None,
    seed: int = 0,
    system_prompt: str | None = None,
) -> list[Prompt]:
    """The prompts of a source, in its order.

    A row's `prompt` is text or chat messages. A row that only has `messages` is asked up to its last
    assistant turn if it ends with one, and in full otherwise. All other columns travel on to the
    reward functions.

    Args:
        source: a `.jsonl`, `.json`, `.parquet` or `.csv` file (all but Parquet also with `.gz` behind), a folder
            of such files, a glob, a folder of `save_to_disk`, `reasoning_gym:NAME`, or the name of a data set for
            `datasets.load_dataset`.
        options: for reasoning_gym the task's settings; for `datasets` the arguments of `load_dataset`
            (`split` is "train" by default); for a folder of `save_to_disk` its `split`; a file has none.
        size: at most so many rows, the first ones; for reasoning_gym how many to make (1000 by default).
        seed: decides what reasoning_gym makes. Files and data sets keep their order.
        system_prompt: a system message to put before every prompt; a text prompt becomes a chat by it.

    Raises:
        DataError: the source or one of its rows cannot be used.
    """
    return [_prompt(row, system_prompt) for row in rows(source, options, size, seed)]


def load_examples(
    source: str,
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    size: int | None = None,
    seed: int = 0,
    system_prompt: str | None = None,
) -> list[Example]:
    """The examples of a source for supervised tuning; the arguments are those of `load_prompts`.

    A row has `prompt` and `completion`, each text or chat messages, or `messages`, or `text`. If only one of the
    first two is a chat, or if there is a system prompt, a text becomes one turn: the user's or the assistant's.
    Of `messages` every assistant turn is learned; what follows the last one is left out. `text` is learned as a
    whole: its prompt is empty. In a source of reasoning_gym the task's own answer is the completion.
    """
    return [_example(row, system_prompt) for row in rows(source, options, size, seed)]


def prompt_from_row(row: Mapping[str, Any], where: str) -> Prompt:
    """A prompt from one row, checked as a file's are. `where` is its id, and begins every message."""
    return _prompt(Row(id=where, where=where, columns=row), None)


def example_from_row(row: Mapping[str, Any], where: str) -> Example:
    """An example from one row, checked as a file's are. `where` is its id, and begins every message."""
    return _example(Row(id=where, where=where, columns=row), None)


def _prompt(row: Row, system_prompt: str | None) -> Prompt:
    taken = [name for name in GIVEN if name in row.columns]
    if taken:
        raise row.error(f"the column {listed(taken)} has a name that reward functions need. Rename it.")
    _check_tools(row)
    if row.has("prompt"):
        content = _content(row, "prompt")
        others = {name: value for name, value in row.columns.items() if name != "prompt"}
        if not isinstance(content, str) and content[-1]["role"] == "assistant":
            raise row.error(
                "the prompt ends with an assistant turn, so there is nothing to answer. "
                "Drop that turn, or call the column 'messages'."
            )
    elif row.has("messages"):
        messages = read_messages(row.columns["messages"], "messages", row.error)
        content = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        others = dict(row.columns)
        if not content:
            raise row.error("'messages' starts with its only assistant turn, so there is nothing to ask.")
    else:
        raise _lacks(row, "prompt", _ASKING)
    return Prompt(id=row.id, content=_with_system(row, content, system_prompt), columns=others)


def _example(row: Row, system_prompt: str | None) -> Example:
    _check_tools(row)
    if row.has("prompt") and row.has(row.completion):
        prompt, completion = _content(row, "prompt"), _content(row, row.completion)
        prompt = _with_system(row, prompt, system_prompt)
        if not isinstance(prompt, str) or not isinstance(completion, str):
            prompt, completion = _as_chat(prompt, "user"), _as_chat(completion, "assistant")
    elif row.has("messages"):
        messages = read_messages(row.columns["messages"], "messages", row.error)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise row.error(
                "'messages' has no assistant turn, so there is nothing to learn from. Drop the row."
            )
        prompt, completion = messages[: answers[0]], messages[answers[0] : answers[-1] + 1]
        if not prompt:
            raise row.error(
                "'messages' starts with an assistant turn. Put the turn that it answers before it."
            )
        prompt = _with_system(row, prompt, system_prompt)
    elif row.has("prompt"):
        raise _lacks(row, row.completion, _ANSWERING)
    elif row.has("text"):
        prompt, completion = "", _text(row, system_prompt)
    else:
        raise _lacks(row, "prompt", _ASKING)
    _check_completion(row, completion)
    return Example(id=row.id, prompt=prompt, completion=completion)


def _text(row: Row, system_prompt: str | None) -> str:
    text = row.columns["text"]
    if not isinstance(text, str) or not text.strip():
        what = "empty" if isinstance(text, str) else kind(text)
        raise row.error(f"'text' is {what}; it must be text to learn. Fill it, or drop the row.")
    if system_prompt is not None:
        raise row.error(
            "the row has only 'text', which is learned as it is: a system_prompt would have no effect. Leave it out, "
            "or give the row 'prompt' and 'completion'."
        )
    return text


def _check_tools(row: Row) -> None:
    # Some files say "no tools" with an empty list; that is true of every row here.
    if row.columns.get("tools"):
        raise row.error(
            "the row has a column 'tools', but tools are not given to the chat template yet, so the model would not "
            "see them. Write them into the system message and drop the column; if a reward function reads it, rename it."
        )


def _check_completion(row: Row, completion: str | tuple[Message, ...]) -> None:
    if isinstance(completion, str):
        return
    if completion[-1]["role"] != "assistant":
        raise row.error(f"the completion ends with a turn of {completion[-1]['role']!r}, not of 'assistant'.")
    if any(turn["role"] == "assistant" and not turn["content"].strip() for turn in completion):
        raise row.error("an assistant turn is empty, so there is nothing to learn. Fill it, or drop the row.")


def _with_system(
    row: Row, content: str | tuple[Message, ...], system_prompt: str | None
) -> str | tuple[Message, ...]:
    if system_prompt is None:
        return content
    chat = _as_chat(content, "user")
    if chat[0]["role"] == "system":
        raise row.error(
            "the row has a system message, and system_prompt would be a second one. "
            "Leave out system_prompt, or take the message out of the data."
        )
    return ({"role": "system", "content": system_prompt}, *chat)


def _as_chat(content: str | tuple[Message, ...], role: str) -> tuple[Message, ...]:
    return ({"role": role, "content": content},) if isinstance(content, str) else content


def _content(row: Row, column: str) -> str | tuple[Message, ...]:
    value = row.columns[column]
    if not isinstance(value, str):
        return read_messages(value, column, row.error)
    if not value.strip():
        raise row.error(f"the {column} is empty. Fill it, or drop the row.")
    return value


def _lacks(row: Row, column: str, usual: Iterable[str]) -> DataError:
    names = [name for name in row.columns if row.has(name)]
    unlike = [name for name in names if name not in ("prompt", "messages")]
    found = nearest(column, unlike) or next((name for name in usual if name in names), None)
    wanted = "messages" if found in ("conversations", "conversation") else column
    hint = f" Rename {found!r} to {wanted!r}?" if found else f" Add a column {column!r}."
    none = " (it is null)" if column in row.columns else ""
    return row.error(f"the row has no {column!r}{none} and no 'messages'; it has {listed(names)}.{hint}")
