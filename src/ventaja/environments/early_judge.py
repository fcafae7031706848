"""Judging beside sampling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import replace
from types import TracebackType

from ventaja.records import Completion, Group, Judgement, Request

Place = tuple[int, int]
"""Of an answer: its request's number, and its own among the request's answers."""


class EarlyJudge:
    """Judges answers in a thread of its own while others are still being sampled.

    Whenever the thread is free it takes all the answers that wait, in one call of `judge`: a slow judge gets few large
    calls, and no answer waits for the round's longest. Answers to one request are one group in a call. Where a `with`
    block ends by an error, no more is judged than what is at work.
    """

    def __init__(self, judge: Callable[[Sequence[Group]], list[Group]], requests: Sequence[Request]) -> None:
        self.judge = judge
        self.requests = requests
        self._lock = threading.Lock()
        self._begun: set[Place] = set()
        self._waiting: dict[Place, Completion] = {}
        self._judged: dict[Place, Judgement] = {}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        """The one that is at work; None if there is none."""

    def __enter__(self) -> EarlyJudge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with self._lock:
                self._waiting = {}

    def begin(self, request: int, k: int, completion: Completion) -> None:
        """Have answer k to this request judged. Raises what an earlier call of `judge` raised."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._begun.add((request, k))
            self._waiting[request, k] = completion
            if self._thread is None:
                here = copy_context()  # so that the thread knows whose round it judges
                self._thread = threading.Thread(
                    target=here.run, args=(self._work,), name="ventaja-early-judge", daemon=True
                )
                self._thread.start()

    def judged(self, answers: Sequence[Sequence[Completion]]) -> list[Group]:
        """The requests' groups with all judgements, begun before or not. Raises what `judge` raised."""
        for r, completions in enumerate(answers):
            for k, completion in enumerate(completions):
                if (r, k) not in self._begun:
                    self.begin(r, k, completion)
        while (thread := self._thread) is not None:
            thread.join()
        if self._error is not None:
            raise self._error
        return [
            replace(
                request.answered(completions),
                judgements=tuple(self._judged[r, k] for k in range(len(completions))),
            )
            for r, (request, completions) in enumerate(zip(self.requests, answers, strict=True))
        ]

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
        groups = self.judge(
            [self.requests[r].answered([answers[place] for place in those]) for r, those in places.items()]
        )
        for those, group in zip(places.values(), groups, strict=True):
            self._judged |= dict(zip(those, group.judgements, strict=True))
