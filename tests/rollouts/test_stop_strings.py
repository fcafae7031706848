"""Stop strings are found where the whole text has them, though only its end is decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ventaja.models.catalog import packaged_model
from ventaja.rollouts.stop_strings import StopStrings

TEXT = "So 3 × 4 = 12.\n\nThe answer: «douze»… 十二 🙂🙃 that is it.\n\n#### 12 <|im_end|> and more" * 3


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(packaged_model("smollm2-135m"))


class Counting:
    """The tokenizer, and how many tokens it was asked to decode."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0
        self.all_special_ids, self.get_vocab = tokenizer.all_special_ids, tokenizer.get_vocab

    def decode(self, tokens, **options):
        self.decoded += len(tokens)
        return self.tokenizer.decode(tokens, **options)


@given(start=st.integers(0, 120), length=st.integers(1, 25), cut=st.integers(1, 200))
def test_found_at_the_very_token_that_completes_it(tokenizer, start, length, cut):
    ids = tokenizer(TEXT[cut:])["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    stop = whole[start : start + length]
    strings = StopStrings(tokenizer, [stop, "never said"])
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        assert strings.complete(ids[:end]) == (stop in text)
        if stop in text:
            assert strings.cut(text) == text[: text.index(stop)]
            break


def test_special_tokens_take_no_room(tokenizer):
    ids = tokenizer("ab")["input_ids"] + [tokenizer.eos_token_id] * 30 + tokenizer("cd")["input_ids"]
    assert StopStrings(tokenizer, ["bc"]).complete(ids)


def test_only_the_end_is_decoded(tokenizer):
    counting = Counting(tokenizer)
    strings = StopStrings(counting, ["\n\n\n"])
    ids = tokenizer("one two three four five six seven " * 60)["input_ids"]
    for end in range(1, len(ids) + 1):
        assert not strings.complete(ids[:end])
    assert counting.decoded <= 7 * len(ids)  # 3 bytes and the slack
    assert not StopStrings(tokenizer, []).complete(ids)
