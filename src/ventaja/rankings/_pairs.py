"""Rankings of two answers as preference data sets have them: `chosen` and `rejected`."""

from __future__ import annotations

import re

from ventaja.rankings._row import Row, Unusable, chat, split
from ventaja.records import Answer, Message, Prompt, Ranking

_USED = ("id", "prompt", "chosen", "rejected", "rater", "weight")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_pair(row: Row) -> bool:
    """True if the row is a chosen answer and a rejected one."""
    return "chosen" in row.columns and "rejected" in row.columns


def pair(row: Row) -> Ranking:
    """The ranking of a row. Raises DataError if it cannot be read, Unusable if there is nothing in it to learn."""
    for name in ("chosen", "rejected"):
        if not row.has(name):
            raise row.error(f"'{name}' is null. Fill it, or drop the row.")
    prompt, chosen, rejected = _parts(row)
    if chosen.text == rejected.text:
        raise Unusable("chosen and rejected are the same")
    return Ranking(
        prompt=Prompt(id=row.name("id"), content=prompt, columns=row.others(_USED)),
        answers=(chosen, rejected),
        order=((0,), (1,)),
        rater=row.text("rater"),
        weight=row.weight(),
    )


def _parts(row: Row) -> tuple[str | tuple[Message, ...], Answer, Answer]:
    chosen, rejected = row.content("chosen"), row.content("rejected")
    prompt = row.content("prompt") if row.has("prompt") else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None:
            return prompt, Answer(text=chosen), Answer(text=rejected)
        chosen, rejected = _dialogue(row, chosen), _dialogue(row, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise row.error("one of 'chosen' and 'rejected' is text and the other is a chat. Make both the same.")
    shared, better, worse = split(chosen, rejected)
    if prompt is None and not shared:
        raise Unusable("chosen and rejected have nothing in common that was asked")
    if prompt is None:
        return shared, better, worse
    if not shared:
        return chat(prompt), better, worse
    asked = prompt.strip() if isinstance(prompt, str) else prompt
    if asked not in (shared, shared[-1]["content"].strip()):
        raise Unusable("'prompt' is not what chosen and rejected begin with")
    return shared, better, worse


def _dialogue(row: Row, text: str) -> tuple[Message, ...]:
    """A chat from the text form of the first such data sets, `\\n\\nHuman: …\\n\\nAssistant: …` (arXiv:2204.05862)."""
    before, *rest = _TURN.split(text)
    if before.strip() or not rest:
        raise row.error(
            "the row has no 'prompt', and 'chosen' is text: where its answer begins cannot be known. Add a column "
            "'prompt', or give both as chat messages."
        )
    return tuple(
        {"role": _ROLES[name], "content": said.strip()}
        for name, said in zip(rest[::2], rest[1::2], strict=True)
    )
