"""Judging beside sampling."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace

from ventaja.environments import Environment
from ventaja.records import Completion, Group, Judgement, Prompt

Place = tuple[int, int]
"""Of an answer: its prompt's number, and its own among the prompt's answers."""


class EarlyJudge:
    """Judges answers in a thread of its own while others are still being sampled.

    Whenever the thread is free it takes all the answers that wait, in one call of the environment: a slow judge gets
    few large calls, and no answer waits for the round's longest. Answers to one prompt are one group in a call.
    """

    def __init__(
        self, environment: Environment, prompts: Sequence[Prompt], prompt_ids: Sequence[tuple[int, ...]]
    ) -> None:
        self.environment = environment
        self.prompts = prompts
        self.prompt_ids = prompt_ids
        self._lock = threading.Lock()
        self._begun: set[Place] = set()
        self._waiting: dict[Place, Completion] = {}
        self._judged: dict[Place, Judgement] = {}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        """The one that is at work; None if there is none."""

    def begin(self, prompt: int, k: int, completion: Completion) -> None:
        """Have answer k to this prompt judged. Raises what an earlier call of the environment raised."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._begun.add((prompt, k))
            self._waiting[prompt, k] = completion
            if self._thread is None:
                here = copy_context()  # so that the thread knows whose round it judges
                self._thread = threading.Thread(
                    target=here.run, args=(self._work,), name="ventaja-early-judge", daemon=True
                )
                self._thread.start()

    def judged(self, groups: Sequence[Group]) -> list[Group]:
        """The prompts' whole groups with all judgements, begun before or not. Raises what the environment raised."""
        for prompt, group in enumerate(groups):
            for k, completion in enumerate(group.completions):
                if (prompt, k) not in self._begun:
                    self.begin(prompt, k, completion)
        while (thread := self._thread) is not None:
            thread.join()
        if self._error is not None:
            raise self._error
        return [
            replace(group, judgements=tuple(self._judged[prompt, k] for k in range(len(group.completions))))
            for prompt, group in enumerate(groups)
        ]

    def abandon(self) -> None:
        """Judge no more than what is at work."""
        with self._lock:
            self._waiting = {}

    def _work(self) -> None:
        while True:
            with self._lock:
                taken, self._waiting = self._waiting, {}
                if not taken:
                    self._thread = None
                    return
            try:
                self._judge(taken)
            except BaseException as error:  # it belongs to whoever waits for the groups
                with self._lock:
                    self._error, self._thread = error, None
                return

    def _judge(self, answers: dict[Place, Completion]) -> None:
        places: dict[int, list[Place]] = {}
        for place in sorted(answers):
            places.setdefault(place[0], []).append(place)
        groups = self.environment.judge(
            [
                Group(
                    prompt=self.prompts[prompt],
                    prompt_ids=self.prompt_ids[prompt],
                    completions=tuple(answers[place] for place in those),
                )
                for prompt, those in places.items()
            ]
        )
        for those, group in zip(places.values(), groups, strict=True):
            self._judged |= dict(zip(those, group.judgements, strict=True))
