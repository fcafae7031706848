"""Where each token's text stands in the text that all of them decode to.

Tokens are decoded, and nothing is encoded again: what a tokenizer would make of the text need not be what was sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ventaja.errors import RolloutError
from ventaja.models.chat import Tokenizer

Offsets = tuple[tuple[int, int], ...]
"""(start, end) of each token's text, in characters. One begins where the one before ends."""

WINDOW = 32
"""Tokens that are decoded together, where all before them are known: a long answer then takes time in proportion."""
OVERLAP = 8
"""Tokens with which a window begins again: of the first a decoder may leave out a space."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What bytes decode to that are no character, or not yet."""

Decode = Callable[[Sequence[int]], str]


def token_offsets(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> Offsets:
    """Where each token's text begins and ends in `text`: what they decode to, or the beginning of it.

    The pieces, one behind the other, are the text. A character that is spread over several tokens belongs to the last of
    them; of bytes that are no character it is only sure that what stands for them belongs to one of their tokens.
    Tokens without text (special ones, or what a stop string cut off) begin and end at the same place.

    Raises RolloutError if `text` is not what the tokens decode to.
    """

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    def plainly(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    whole, plain = decode(token_ids), plainly(token_ids)
    if not whole.startswith(text):
        raise RolloutError(
            f"a completion says {text!r:.80}, but its {len(token_ids)} tokens decode to {whole!r:.80}. Where its steps "
            "are judged its text must be what the tokenizer decodes its tokens to, without special ones, up to a stop "
            "string if one ended it."
        )
    # Spaces that are cleaned up later (" ." to ".") depend on what follows, so they are left out of the pieces afterwards.
    kept = _kept(plain, whole)
    ends = (
        _ends(decode, token_ids, whole)
        if kept is None
        else [kept[e] for e in _ends(plainly, token_ids, plain)]
    )
    ends = [min(end, len(text)) for end in ends]
    return tuple(zip([0, *ends[:-1]], ends, strict=True)) if ends else ()


def _ends(decode: Decode, token_ids: Sequence[int], whole: str) -> list[int]:
    """Where each token's text ends in `whole`, which is what all of them decode to."""
    found = _ends_by_window(decode, token_ids, whole, WINDOW)
    return found or _ends_by_window(decode, token_ids, whole, len(token_ids)) or [len(whole)] * len(token_ids)


def _ends_by_window(decode: Decode, token_ids: Sequence[int], whole: str, window: int) -> list[int] | None:
    """The same, or None if what is decoded in windows does not come to the end of `whole`.

    A window's text grows token by token, from `offset` on in `whole`. How far both agree belongs to the tokens so far: a
    character that has only some of its bytes is a replacement character, and agrees with nothing.
    """
    ends: list[int] = []
    start, offset, text = 0, 0, ""
    for n in range(len(token_ids)):
        before, text = text, decode(token_ids[start : n + 1])
        if text == before and text.endswith(BROKEN) and decode([token_ids[n]]):
            # More bytes of what is no character yet, but may become U+FFFD itself: it is not the earlier tokens'.
            ends = [min(end, offset + len(text) - 1) for end in ends]
        agreed = len(text)
        while not whole.startswith(text[:agreed], offset):
            agreed -= 1
        ends.append(max(offset + agreed, ends[-1] if ends else 0))
        if n - start >= window and agreed == len(text) and not text.endswith(BROKEN):
            again = decode(token_ids[n + 1 - OVERLAP : n + 1])
            if again and whole[: ends[-1]].endswith(again):
                start, offset, text = n + 1 - OVERLAP, ends[-1] - len(again), again
    return ends if whole[offset:] == text else None


def _kept(plain: str, cleaned: str) -> list[int] | None:
    """How much of `cleaned` comes from the first 0, 1, 2, … characters of `plain`; None if more than spaces went."""
    kept = [0]
    for character in plain:
        is_there = cleaned[kept[-1] : kept[-1] + 1] == character
        if not is_there and character != " ":
            return None
        kept.append(kept[-1] + is_there)
    return kept if kept[-1] == len(cleaned) else None
