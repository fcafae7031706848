"""Judging beside sampling."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ventaja.environments import Environment
from ventaja.records import Group


class EarlyJudge:
    """Judges groups in a thread of its own while others are still being sampled.

    Whenever the thread is free it takes all the groups that wait, in one call of the environment: a slow judge gets
    few large calls, and no group waits for the round's longest answer.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._waiting: dict[int, Group] = {}
        self._judged: dict[int, Group] = {}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        """The one that is at work; None if there is none."""

    def begin(self, place: int, group: Group) -> None:
        """Have this group judged. Raises what an earlier call of the environment raised."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._waiting[place] = group
            self._begun.add(place)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ventaja-early-judge", daemon=True)
                self._thread.start()

    def judged(self, groups: Sequence[Group]) -> list[Group]:
        """All the groups, whether they were begun before or not. Raises what the environment raised."""
        for place, group in enumerate(groups):
            if place not in self._begun:
                self.begin(place, group)
        while (thread := self._thread) is not None:
            thread.join()
        if self._error is not None:
            raise self._error
        return [self._judged[place] for place in range(len(groups))]

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
                judged = self.environment.judge(list(taken.values()))
                self._judged |= dict(zip(taken, judged, strict=True))
            except BaseException as error:  # it belongs to whoever waits for the groups
                with self._lock:
                    self._error, self._thread = error, None
                return
