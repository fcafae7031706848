"""A trajectory's tokens know whether they were chosen or given."""

from __future__ import annotations

import pytest

from ventaja.records import Completion, Given, Prompt, Request, StopReason, Trajectory


def said(*tokens: int, text: str = "", stop: StopReason = StopReason.EOS, version: int = 0) -> Completion:
    logprobs = tuple(-float(token) for token in tokens)
    return Completion(token_ids=tokens, logprobs=logprobs, text=text, stop=stop, weight_version=version)


def test_an_answer_is_the_case_of_one_turn() -> None:
    answer = Trajectory.of(said(3, 4, text="hi", version=5))
    assert answer.token_ids == (3, 4)
    assert answer.is_chosen == (True, True)
    assert answer.logprobs == (-3.0, -4.0)
    assert (answer.text, answer.stop, answer.weight_version) == ("hi", StopReason.EOS, 5)
    assert not answer.is_truncated
    assert len(answer) == 2


def test_an_answer_whose_tokens_ran_out_is_truncated() -> None:
    assert Trajectory.of(said(3, stop=StopReason.LENGTH)).is_truncated
    assert not Trajectory.of(said(3, stop=StopReason.STOP_STRING)).is_truncated


def test_turns_stand_one_behind_the_other() -> None:
    told = Given(token_ids=(7, 8, 9), text="42", role="tool")
    episode = Trajectory(
        turns=(
            said(3, 4, text="6·7?", version=1),
            told,
            said(5, text="42.", stop=StopReason.LENGTH, version=2),
        ),
        is_truncated=True,
    )
    assert episode.token_ids == (3, 4, 7, 8, 9, 5)
    assert episode.is_chosen == (True, True, False, False, False, True)
    assert episode.logprobs == (-3.0, -4.0, None, None, None, -5.0)
    assert episode.text == "6·7?\n42."
    assert episode.stop is StopReason.LENGTH
    assert episode.weight_version == 1
    assert episode.messages() == [
        {"role": "assistant", "content": "6·7?"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "42."},
    ]


def test_somebody_must_have_chosen_something() -> None:
    with pytest.raises(ValueError, match="no turn is the policy's"):
        Trajectory(turns=(Given(token_ids=(1,), text="a", role="user"),), is_truncated=False)


def test_a_request_becomes_a_group_of_answers() -> None:
    request = Request(prompt=Prompt(id="a", content="?"), prompt_ids=(1, 2), count=2, seed=(0,))
    group = request.answered([said(3), said(4, stop=StopReason.LENGTH)])
    assert (group.prompt, group.prompt_ids) == (request.prompt, (1, 2))
    assert [t.token_ids for t in group.trajectories] == [(3,), (4,)]
    assert [t.is_truncated for t in group.trajectories] == [False, True]
    assert group.judgements == ()
