"""Stop strings: texts that end an answer, and are cut off it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SLACK = 4
"""Tokens more than a stop string has bytes: the first ones may decode otherwise without what stands before them."""


class StopStrings:
    """Finds stop strings in an answer that grows token by token.

    A token that has text has at least one byte of it, so a string that the newest token completes lies within as
    many of them as it has bytes. Only these are decoded at every token.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.strings = strings
        self.tokens = max((len(s.encode()) for s in strings), default=0) + SLACK
        self.words: frozenset[int] = frozenset()
        """Tokens that have text."""
        if strings:
            self.words = frozenset(tokenizer.get_vocab().values()) - frozenset(tokenizer.all_special_ids)

    def complete(self, tokens: Sequence[int]) -> bool:
        """True if an answer that had no stop string before its last token has one now."""
        if not self.strings or not self._are_in(self._end(tokens)):
            return False
        return self._are_in(tokens)

    def cut(self, text: str) -> str:
        """The text before the first of them."""
        return text[: min(text.index(s) for s in self.strings if s in text)]

    def _are_in(self, tokens: Sequence[int]) -> bool:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return any(s in text for s in self.strings)

    def _end(self, tokens: Sequence[int]) -> Sequence[int]:
        """The last `self.tokens` tokens that have text, and those without any among them."""
        start, wanted = len(tokens), self.tokens
        while start and wanted:
            start -= 1
            wanted -= tokens[start] in self.words
        return tokens[start:]
