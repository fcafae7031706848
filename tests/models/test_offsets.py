"""Where tokens' texts stand: the pieces are the text, and each character belongs to the token that completes it."""

from __future__ import annotations

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import make_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ventaja.errors import RolloutError
from ventaja.models.catalog import packaged_model
from ventaja.models.offsets import OVERLAP, WINDOW, token_offsets

TEXT = "So 3 × 4 = 12.\n\nAnd «douze»… 十二 🙂🙃👩‍🚀 that is it, isn't it ?\n<step> a b </step>"


@functools.cache
def smollm2():
    return AutoTokenizer.from_pretrained(packaged_model("smollm2-135m"))


@functools.cache
def byte_level():
    """Bytes, and merges that cut across characters: the last byte of one with the first of the next."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    shown = lambda data: "".join(of_bytes()[b] for b in data)  # noqa: E731
    first, second = shown("🙂".encode()), shown("🙃".encode())
    merges = [
        (first[2], first[3]),
        (first[3], second[0]),
        (shown(b"\n"), shown(b"1")),
        (shown(b" "), shown(b"a")),
    ]
    vocabulary = {word: i for i, word in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return wrapped(inner)


@functools.cache
def sentencepiece():
    """▁ for spaces, the first of which is left out again, and bytes for what has no token: as Llama 2 has it."""
    words = [
        "<unk>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        *"abcisthnotpe,.?'123=+",
        "▁a",
        "▁is",
        "it",
        "\n1",
        "��",
    ]
    inner = Tokenizer(
        models.BPE(
            vocab={w: i for i, w in enumerate(words)}, merges=[], byte_fallback=True, unk_token="<unk>"
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(inner)


@functools.cache
def word_piece(clean: bool = True):
    """Words with spaces between them that are taken out again before punctuation, when all is decoded."""
    words = [
        "[UNK]",
        "a",
        "is",
        "it",
        "##n",
        "##'",
        "'",
        "t",
        "s",
        "n",
        ".",
        "?",
        "!",
        ",",
        "do",
        "re",
        "##3",
        "é",
        "十",
    ]
    inner = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return wrapped(inner, clean_up_tokenization_spaces=clean)


def wrapped(inner, **options):
    inner.add_special_tokens([AddedToken("<|end|>", special=True)])
    inner.add_tokens([AddedToken("<step>", special=False)])
    options = {"clean_up_tokenization_spaces": False} | options
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", **options)


KINDS = {
    "smollm2": smollm2, "byte level": byte_level, "sentencepiece": sentencepiece, "word piece": word_piece,
    "word piece, not cleaned": functools.partial(word_piece, False), "characters": functools.cache(make_tokenizer),
}  # fmt: skip


def of_bytes() -> dict[int, str]:
    """The character that a byte-level tokenizer writes each byte as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + place) for place, b in enumerate(rest)}


def said(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def pieces(tokenizer, ids, text=None):
    text = said(tokenizer, ids) if text is None else text
    return [text[start:end] for start, end in token_offsets(tokenizer, ids, text)]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_pieces_are_the_text(kind, data):
    tokenizer = KINDS[kind]()
    known = tokenizer(TEXT[: data.draw(st.integers(1, len(TEXT)))])["input_ids"]
    some = st.one_of(
        st.integers(0, len(tokenizer) - 1), st.sampled_from(known), st.sampled_from(tokenizer.all_special_ids)
    )
    ids = data.draw(st.lists(some, max_size=3 * WINDOW)) + data.draw(st.sampled_from([[], known, 4 * known]))
    text = said(tokenizer, ids)
    cut = data.draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))  # as by a stop string
    found = token_offsets(tokenizer, ids, text[:cut])
    assert len(found) == len(ids)
    assert "".join(text[start:end] for start, end in found) == text[:cut]
    edges = [0, *(end for _, end in found)]
    assert edges == sorted(edges)
    assert [start for start, _ in found] == edges[:-1]
    for token, (start, end) in zip(ids, found, strict=True):
        if token in tokenizer.all_special_ids:
            assert start == end


@pytest.mark.parametrize("kind", ["smollm2", "byte level"])
@given(data=st.data())
@example(data=None)
def test_a_character_belongs_to_the_token_with_its_last_byte(kind, data):
    tokenizer = KINDS[kind]()
    known = tokenizer(3 * TEXT)["input_ids"]
    ids = known
    if data is not None:
        some = st.one_of(st.integers(0, len(tokenizer) - 1), st.sampled_from(known))
        ids = data.draw(st.lists(some, max_size=2 * WINDOW)) + known[data.draw(st.integers(0, len(known))) :]
        ids = ids[: data.draw(st.integers(0, len(ids)))]
    back = {character: byte for byte, character in of_bytes().items()}
    owner, everything = [], b""
    for t, token in enumerate(ids):
        if token in tokenizer.all_special_ids:
            continue
        word = tokenizer.convert_ids_to_tokens(token)
        read = bytes(back[c] for c in word) if all(c in back for c in word) else word.encode()
        everything += read
        owner += [t] * len(read)
    text, place, byte = said(tokenizer, ids), 0, 0
    found = token_offsets(tokenizer, ids, text)
    while byte < len(everything):
        try:
            valid, broken = everything[byte:].decode(), 0
        except UnicodeDecodeError as error:
            valid, broken = everything[byte : byte + error.start].decode(), error.end - error.start
        for character in valid:
            byte += len(character.encode())
            start, end = found[owner[byte - 1]]
            assert text[place] == character
            assert start <= place < end, (place, character, found)
            place += 1
        if broken:  # it stands for bytes of these tokens
            assert text[place] == "\N{REPLACEMENT CHARACTER}"
            owners = {owner[b] for b in range(byte, byte + broken)}
            assert any(found[t][0] <= place < found[t][1] for t in owners)
            byte, place = byte + broken, place + 1
    assert place == len(text)


def byte_ids(tokenizer, data, shown=lambda b: of_bytes()[b]):
    return [tokenizer.convert_tokens_to_ids(shown(b)) for b in data]


def test_by_hand():
    tokenizer = byte_level()
    both = tokenizer.convert_tokens_to_ids(of_bytes()[10] + "1")
    ids = [*byte_ids(tokenizer, "é".encode()), both, tokenizer.eos_token_id]
    assert pieces(tokenizer, ids) == ["", "é", "\n1", ""]
    # the last byte of 🙂 stands in one token with the first of 🙃
    one, two = "🙂".encode(), "🙃".encode()
    border = tokenizer.convert_tokens_to_ids(of_bytes()[one[3]] + of_bytes()[two[0]])
    ids = [*byte_ids(tokenizer, one[:3]), border, *byte_ids(tokenizer, two[1:])]
    assert pieces(tokenizer, ids) == ["", "", "", "🙂", "", "", "🙃"]
    assert pieces(tokenizer, ids[:3]) == ["", "", "�"]  # cut off in the middle of a character
    assert pieces(tokenizer, byte_ids(tokenizer, "a�b".encode())) == [
        "a",
        "",
        "",
        "�",
        "b",
    ]  # a character like others
    assert pieces(tokenizer, byte_ids(tokenizer, b"a\xff\xffb")) == ["a", "�", "�", "b"]
    assert pieces(tokenizer, []) == []


def test_bytes_for_what_has_no_token_and_a_first_space_that_is_left_out():
    tokenizer = sentencepiece()
    assert pieces(tokenizer, tokenizer("a é it")["input_ids"]) == ["", "a", " ", "", "é", " ", "i", "t"]
    word = tokenizer.convert_tokens_to_ids
    assert pieces(tokenizer, [word("▁a"), word("▁is"), word("▁is")]) == ["a", " is", " is"]
    raw = byte_ids(tokenizer, "€".encode(), lambda b: f"<0x{b:02X}>")
    assert pieces(tokenizer, [*raw, word("a")]) == ["", "", "€", "a"]


def test_spaces_that_are_cleaned_up_afterwards():
    tokenizer = word_piece()
    ids = tokenizer.convert_tokens_to_ids(["it", "is", ".", "do", "'", "t", "n", "'", "t", "?"])
    assert said(tokenizer, ids) == "it is. do'tn't?"
    assert pieces(tokenizer, ids) == ["it", " is", ".", " do", "'", "t", "n", "'", "t", "?"]


def test_a_long_answer_takes_time_in_proportion():
    tokenizer, decoded = smollm2(), 0

    class Counting:
        def decode(self, ids, **options):
            nonlocal decoded
            decoded += len(ids)
            return tokenizer.decode(ids, **options)

    for times in (1, 8):
        ids = times * tokenizer(4 * TEXT)["input_ids"]
        decoded = 0
        found = token_offsets(Counting(), ids, said(tokenizer, ids))
        assert decoded < len(ids) * (WINDOW + OVERLAP)
        assert found[-1][1] == len(said(tokenizer, ids))


def test_a_text_that_is_not_the_tokens():
    tokenizer = smollm2()
    ids = tokenizer("one two")["input_ids"]
    with pytest.raises(
        RolloutError, match=r"says 'two', but its \d tokens decode to 'one two'(.|\n)*stop string"
    ):
        token_offsets(tokenizer, ids, "two")
