"""Small values that the tests of environments share."""

from collections.abc import Callable
from typing import Any

import pytest

from ventaja.records import Completion, Group, Prompt, StopReason, Trajectory


def completion(text: str) -> Completion:
    ids = tuple(text.encode())
    return Completion(
        token_ids=ids, logprobs=(-1.0,) * len(ids), text=text, stop=StopReason.EOS, weight_version=0
    )


@pytest.fixture
def group() -> Callable[..., Group]:
    """`group("a", "b", content="2+2=", answer="4")`: one prompt with the completions a and b."""

    def make(*texts: str, id: str = "t.jsonl:1", content: Any = "2+2=", **columns: Any) -> Group:
        prompt = Prompt(id=id, content=content, columns=columns)
        answers = tuple(Trajectory.of(completion(text)) for text in texts)
        return Group(prompt=prompt, prompt_ids=(1, 2), trajectories=answers)

    return make
