"""An engine that says what it is told: for tests of rewards, environments and loops without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ventaja.models import Policy
from ventaja.records import Completion, Request, StopReason
from ventaja.rollouts.engine import Interrupted, Sampling


class ScriptedEngine:
    """Answers each request with `script(prompt_text, k)`, encoded by the tokenizer and ended by its EOS.

    Every token's log-prob is −1. The requests that it saw are kept in `seen`.
    """

    def __init__(self, tokenizer: Any, script: Callable[[str, int], str]) -> None:
        self.tokenizer = tokenizer
        self.script = script
        self.seen: list[Request] = []
        self.version = 0

    def load(self, policy: Policy, *, version: int) -> None:
        self.version = version

    def release(self) -> None:
        pass

    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        finished: Callable[[int, int, Completion], None] = lambda request, k, completion: None,
    ) -> list[tuple[Completion, ...]]:
        """See `Engine.sample`; answers longer than `sampling.max_tokens` are cut."""
        if should_stop():
            raise Interrupted
        self.seen += requests
        answers = [
            tuple(self._answer(request, k, sampling) for k in range(request.count)) for request in requests
        ]
        for place, completions in enumerate(answers):
            for k, completion in enumerate(completions):
                finished(place, k, completion)
        return answers

    def _answer(self, request: Request, k: int, sampling: Sampling) -> Completion:
        text = self.script(self.tokenizer.decode(request.prompt_ids), k)
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        cut = ids[: sampling.max_tokens]
        return Completion(
            token_ids=tuple(cut),
            logprobs=(-1.0,) * len(cut),
            text=self.tokenizer.decode(cut, skip_special_tokens=True),
            stop=StopReason.EOS if len(cut) == len(ids) else StopReason.LENGTH,
            weight_version=self.version,
        )
