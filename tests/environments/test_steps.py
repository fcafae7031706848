"""Judging every step: where answers are cut, which token earns a step's reward, and what judges may do wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ventaja.environments import Reward, SingleTurn, broken_fraction, check_broken, judge, load_reward
from ventaja.environments.steps import NAMED, Step, cutter, place_of, steps_of
from ventaja.errors import ConfigError, RewardError
from ventaja.records import Completion, Given, Group, Prompt, Request, StopReason, Trajectory

# ---------------------------------------------------------------------- cutting


def texts(steps, text):
    return [text[start:end] for start, end in cutter(steps, "r")(text)]


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        ("line", "12 + 7 = 19\n 19 + 1 = 20 \n\n\t\nend", ["12 + 7 = 19", "19 + 1 = 20", "end"]),
        ("line", "a\r\nb\u2028c", ["a", "b", "c"]),
        ("line", "", []),
        ("line", "\n \n", []),
        ("sentence", "It is 3.5. Is it?! Yes… (No.) so", ["It is 3.5.", "Is it?!", "Yes…", "(No.)", "so"]),
        ("sentence", "One.\nTwo\nthree", ["One.", "Two", "three"]),
        ("sentence", "是的。不是！", ["是的。", "不是！"]),
        ("turn", "a\nb", ["a\nb"]),
        ("turn", "", [""]),
        ({"tag": "step"}, "so <step> a\nb </step>, <step></step> <step>c</step> <step>d", ["a\nb", "c"]),
        (lambda text: [(0, 2), (1, 3)], "abc", ["ab", "bc"]),
    ],
)
def test_where_a_text_is_cut(steps, text, expected):
    assert texts(steps, text) == expected


@given(text=st.text(alphabet='ab.!? \n\r\t。)"é🙂'), name=st.sampled_from(sorted(NAMED)))
def test_steps_are_in_order_and_nothing_but_white_space_is_lost(text, name):
    spans = NAMED[name](text)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("lines", "there are no steps 'lines'. Did you mean 'line'?"),
        ({"tags": "step"}, "Where it is a mapping it names a tag"),
        ({"tag": "<step>"}, "Where it is a mapping it names a tag"),
        ("nowhere.py:cut", "there is no file nowhere.py"),
    ],
)
def test_steps_that_do_not_exist(steps, message):
    with pytest.raises(ConfigError) as error:
        load_reward(lambda steps: steps, steps=steps)
    assert message in str(error.value)


# ---------------------------------------------------------------------- which token earns a step's reward


def said(*pieces, stop=StopReason.EOS):
    """A completion whose tokens have these texts."""
    return Completion(
        token_ids=tuple(range(2, 2 + len(pieces))), logprobs=(-1.0,) * len(pieces), text="".join(pieces), stop=stop,
        weight_version=0,
    )  # fmt: skip


def offsets_of(*pieces):
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize(
    ("pieces", "places"),
    [
        (["a", "b", "\n", "c", ""], [1, 3]),  # the line's end is no part of the step, nor is the answer's end
        (["a", "b\n", "c", ""], [1, 2]),  # a token with the line's end and the letter before
        (["a", "b\nc", "d", ""], [1, 2]),  # one on the border: it reaches into both, and is the first's last
        (["a", "b\nc", ""], [1, 1]),  # the last of both
        (["ab\ncd", ""], [0, 0]),
        (
            ["a", "", "b", "", "\n", "", "c", "", ""],
            [2, 6],
        ),  # tokens without text, such as a character's first bytes
        (["  ", "a", "  ", "\n", "\n", " c"], [1, 5]),
    ],
)
def test_the_last_token_whose_text_reaches_into_the_step(pieces, places):
    trajectory = Trajectory.of(said(*pieces))
    steps = steps_of(trajectory, NAMED["line"])
    assert [place_of(step, trajectory, lambda completion: offsets_of(*pieces)) for step in steps] == places


def test_the_turns_of_a_trajectory():
    told = {"ab\nc": ("ab", "\n", "c", ""), "": ("",), "d": ("d", "")}
    trajectory = Trajectory(
        turns=(said(*told["ab\nc"]), Given(token_ids=(9, 9, 9), text="so?", role="user"), said(*told[""]), said(*told["d"])),
        is_truncated=False,
    )  # fmt: skip

    def places(name):
        steps = steps_of(trajectory, NAMED[name])
        return [(s.turn, s.text, place_of(s, trajectory, lambda c: offsets_of(*told[c.text]))) for s in steps]

    # tokens 0 to 3, three that were given, 7, then 8 and 9
    assert places("line") == [(0, "ab", 0), (0, "c", 2), (2, "d", 8)]
    assert places("turn") == [(0, "ab\nc", 2), (1, "", 7), (2, "d", 8)]
    with pytest.raises(ValueError, match="no turn 5"):
        place_of(Step(5, 0, 1, "a"), trajectory, lambda c: ())


# ---------------------------------------------------------------------- rewards


def byte_offsets(completion):
    """Of the completions of `group`: a token is a byte, and a character belongs to its last one."""
    ends = []
    for place, character in enumerate(completion.text):
        ends += [place] * (len(character.encode()) - 1) + [place + 1]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def judged(groups, *rewards):
    return judge(groups, rewards, timeout=5.0, offsets=byte_offsets)


def lengths(steps):
    return [[float(len(step)) for step in each] for each in steps]


def test_each_steps_reward_stands_at_its_last_token(group):
    seen = {}

    def look(steps, completions, answer):
        seen.update(steps=steps, completions=completions, answer=answer)
        return lengths(steps)

    [one] = judged([group("ab\n\nc", "é🙂\nx", answer="4")], Reward(look, "look", 0.5, "line"))
    assert seen["steps"] == [["ab", "c"], ["é🙂", "x"]]
    assert seen["completions"] == ["ab\n\nc", "é🙂\nx"]
    first, second = one.judgements
    assert first.stream == ((1, 1.0), (4, 0.5))
    assert second.stream == ((5, 1.0), (7, 0.5))  # é has two bytes, 🙂 four
    assert first.components == second.components == {"look": 3.0}  # before the weight
    assert first.reward == 1.5


def test_a_function_without_weight_is_reported_and_is_no_reward(group):
    lines = Reward(lengths, "lines", 1.0, "line")
    whole = Reward(lambda completions: [5.0] * len(completions), "whole", 0.0)
    [one] = judged([group("ab\nc")], lines, whole)
    assert one.judgements[0].stream == (
        (1, 2.0),
        (3, 1.0),
    )  # nothing of 0 at the last token, which would be a step
    assert one.judgements[0].components == {"lines": 3.0, "whole": 5.0}
    [one] = judged([group("ab")], whole)
    assert one.judgements[0].stream == ((1, 0.0),)
    [one] = judged([group("ab")], Reward(lambda steps: [None], "none", 1.0, "line"), whole)
    assert not one.judgements[0].is_valid  # nobody judged it whose judgement counts


def test_several_functions_add_up_token_by_token(group):
    whole = Reward(lambda completions: [10.0] * len(completions), "whole")
    short = Reward(lambda steps: [[1.0, None] for _ in steps], "first", 2.0, "line")
    tagged = Reward(lambda steps: [7.0 for _ in steps], "number", 1.0, {"tag": "a"})
    [one] = judged([group("ab\ncd")], Reward(lengths, "lengths", 1.0, "line"), short, tagged, whole)
    assert one.judgements[0].stream == ((1, 4.0), (4, 19.0))  # 2 + 2·1, and 2 + 7 + 10
    assert one.judgements[0].components == {"lengths": 4.0, "first": 1.0, "number": 7.0, "whole": 10.0}


def test_none_an_empty_list_and_one_number(group):
    def three_kinds(steps):
        return [
            {"n": None, "i": [None], "w": 3.0}.get(each[0][0], lengths([each])[0]) if each else []
            for each in steps
        ]

    [one] = judged([group("n", "i", "w\nw", "\n\n", "ab")], Reward(three_kinds, "r", 1.0, "line"))
    none, unjudged, whole, nothing, usual = one.judgements
    assert not none.is_valid
    assert not unjudged.is_valid
    assert not unjudged.faults
    assert whole.stream == ((2, 3.0),)
    assert nothing.stream == ((1, 0.0),)  # no step, so their sum is 0: the whole answer earned it
    assert nothing.components == {"r": 0.0}
    assert usual.stream == ((1, 2.0),)


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple, lambda x: [np.float32(v) for v in x]])
def test_what_counts_as_a_list_of_numbers(group, make):
    [one] = judged([group("ab\nc")], Reward(lambda steps: [make([1.0, 0.0])], "r", 1.0, "line"))
    assert one.judgements[0].stream == ((1, 1.0), (3, 0.0))
    table = Reward(lambda steps: make([[1.0, 0.0]]) if make is np.array else [[1, 0]], "r", 1.0, "line")
    assert judged([group("ab\nc")], table)[0].judgements[0].stream == ((1, 1.0), (3, 0.0))


async def awaited(steps):
    return lengths(steps)


def test_an_async_judge_and_one_beside_sampling(group):
    reward = Reward(awaited, "awaited", 1.0, "line")
    assert judged([group("ab\nc")], reward)[0].judgements[0].stream == ((1, 2.0), (3, 1.0))
    request = Request(prompt=Prompt(id="p", content="?"), prompt_ids=(1,), count=2, seed=(0,))
    answers = [(said("a", "b"), said("a", "\n", "b"))]

    class Ask:
        def __call__(self, requests, *, finished=None):
            for k, answer in enumerate(answers[0]):
                if finished:
                    finished(0, k, answer)
            return answers

        def offsets(self, completion):
            return offsets_of(*completion.text)

        def encode(self, text):
            raise AssertionError

    for overlap in (False, True):
        world = SingleTurn(prompts=[request.prompt], rewards=[reward], overlap=overlap)
        [one] = world.rollout(Ask(), [request])
        assert [j.stream for j in one.judgements] == [((1, 2.0),), ((0, 1.0), (2, 1.0))]
    with pytest.raises(ConfigError, match="judges steps, so it must be known where tokens have their text"):
        world.judge([request.answered(answers[0])])


# ---------------------------------------------------------------------- what a judge may do wrong


BAD = {
    "too few": ([1.0], "returned 1 values for the 2 steps of completion 1 of t.jsonl:1 ('bad\\nb')"),
    "too many": ([1.0, 1.0, 1.0], "returned 3 values for the 2 steps"),
    "none": ([], "returned 0 values for the 2 steps"),
    "nan": ([1.0, math.nan], "returned nan for completion 1"),
    "infinite": (np.array([1.0, math.inf]), "returned inf for completion 1"),
    "nan for the whole": (math.nan, "returned nan for completion 1"),
    "text": ("12", "returned str ('12')"),
    "lists": ([[1.0], [1.0]], "returned list ([1.0])"),
    "an exception": (ValueError("cannot read it"), "ValueError: cannot read it"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_with_one_answer_breaks_that_sample(group, kind):
    returned, message = BAD[kind]

    def odd(steps):
        return [returned if each[0] == "bad" else [1.0] * len(each) for each in steps]

    [one] = judged([group("a", "bad\nb", "c\nd\ne")], Reward(odd, "odd", 1.0, "line"))
    good, bad, other = one.judgements
    assert (good.stream, other.reward) == (((0, 1.0),), 3.0)
    assert not bad.is_valid
    assert message in bad.faults[0].error
    assert "steps = ['bad', 'b']" in bad.faults[0].detail
    assert broken_fraction([one]) == pytest.approx(1 / 3)
    check_broken([one], limit=0.4)
    with pytest.raises(RewardError, match=r"33% of the judgements are broken(.|\n)*steps = \['bad', 'b'\]"):
        check_broken([one], limit=0.3)


def test_a_list_of_the_wrong_length_is_a_mistake_in_the_function(group):
    with pytest.raises(
        RewardError, match="a list with one number per step, one number or None per completion"
    ):
        judged([group("a", "b")], Reward(lambda steps: [[1.0]], "odd", 1.0, "line"))
    with pytest.raises(RewardError, match="returned list .* To judge steps, set steps"):
        judged([group("a", "b")], Reward(lambda completions: [[1.0], [1.0]], "odd"))


def raising(text):
    if text == "bad":
        raise KeyError("no step here")
    return [(0, len(text))]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (raising, "KeyError: 'no step here'"),
        (lambda text: [(0, 9 if text == "bad" else 1)], r"\(0, 9\) of a text of 3 characters: a step begins before"),
        (lambda text: [(-1, 1)] if text == "bad" else [(0, 1)], r"\(-1, 1\) of a text of 3 characters"),
        (lambda text: [(2, 2)] if text == "bad" else [(0, 1)], r"\(2, 2\) of a text"),
        (lambda text: [(0.0, 1.0)] if text == "bad" else [(0, 1)], r"a step is a pair \(start, end\) of whole numbers"),
        (lambda text: [0, 1] if text == "bad" else [(0, 1)], "cut out 0: a step is a pair"),
        (lambda text: None if text == "bad" else [(0, 1)], "TypeError: 'NoneType' object is not iterable"),
    ],
)  # fmt: skip
def test_a_cutter_that_breaks_on_one_answer(group, cut, message):
    [one] = judged([group("bad", "okay")], Reward(lengths, "r", 1.0, cut))
    bad, good = one.judgements
    assert good.is_valid
    with pytest.raises(RewardError, match=message):
        check_broken([one], limit=0.0)
    assert bad.faults[0].function == "r"
    [all_bad] = judged([group("bad", "bad")], Reward(lengths, "r", 1.0, cut))
    assert broken_fraction([all_bad]) == 1.0


def test_what_would_have_no_effect_or_lacks_something(group):
    with pytest.raises(
        ConfigError, match="steps would have no effect, for the function takes no parameter 'steps'"
    ):
        load_reward("exact_match", steps="line")
    with pytest.raises(ConfigError, match="requires 'steps', which the prompts do not have. If it judges"):
        judged([group("a")], Reward(lengths, "r"))
    with pytest.raises(ConfigError, match="the prompts have the column 'steps', a name that rewards need"):
        judged([group("a", steps=3)], Reward(lengths, "r", 1.0, "line"))
    # a column of that name is one like others where no steps are judged
    [one] = judged([group("a", steps=3)], Reward(lambda steps: [float(n) for n in steps], "r"))
    assert one.judgements[0].reward == 3.0


def test_the_whole_of_several_turns_in_a_group():
    """`judge` is handed groups by environments of one's own too: places count over all turns."""
    told = {"a\nb": ("a", "\n", "b", ""), "c": ("c", "")}
    trajectory = Trajectory(
        turns=(said(*told["a\nb"]), Given(token_ids=(9,), text="?", role="user"), said(*told["c"])),
        is_truncated=False,
    )
    one = Group(prompt=Prompt(id="p", content="?"), prompt_ids=(1,), trajectories=(trajectory,))
    rewards = [Reward(lambda steps: [[1.0, 2.0, 3.0] for _ in steps], "r", 1.0, "line")]
    [after] = judge([one], rewards, timeout=5.0, offsets=lambda c: offsets_of(*told[c.text]))
    assert after.judgements[0].stream == ((0, 1.0), (2, 2.0), (5, 3.0))
