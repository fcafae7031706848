"""How long each part of a round takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """The seconds of a round by what went on; a phase inside another one stops the outer one's clock.

    `show` is told what goes on now.
    """

    def __init__(self, seconds: dict[str, float], *, show: Callable[[str], None]) -> None:
        self.seconds, self.show = seconds, show
        self._inside: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._turn()
        self._inside.append(name)
        self.show(name)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()
            if self._inside:
                self.show(self._inside[-1])

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._inside:
            name = self._inside[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
