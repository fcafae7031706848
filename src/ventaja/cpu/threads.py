"""How many threads a step runs on, by how long steps take: a neighbour must not ruin a run.

A decoding step is some thousand small loops, and after each of them every thread waits for the slowest. With all cores
taken by our threads and one busy process beside them, one thread is always waiting for its turn, and so are the others.

One that waits in a loop keeps its core from the very one that it waits for: two cores then give a twentieth of their speed.

    core 0   A works │ A waits for B, in a loop …………………… │ A works       a waiting thread that sleeps would have
    core 1   B works │ the busy process, for milliseconds │ B works       left its core to B at once

So waiting threads are told to sleep soon, where torch is not loaded yet (`ventaja/__init__.py` sets GOMP_SPINCOUNT to 2,000
turns of the loop; it is 300,000 otherwise). And one thread fewer leaves the neighbour a core, so that nobody waits.

When the system takes the processor from this process's threads again and again (it counts these involuntary context
switches), the next step is timed with fewer threads; what is faster stays. Every so often one step more is timed with
more threads, to see whether the neighbour has gone: the more seldom, the more often it had not.

**What is bitwise.** Our kernels give the same bits on any number of threads. torch's matrix products promise nothing of
the kind: with fewer threads a sum may run in another order. (Samples, log-probs and gradients of SmolLM2 came out the
same to the bit with one and with two threads, in bfloat16 and in float32, on the machine where that was looked at.) As
long as nobody disturbs a run nothing is ever tried, so undisturbed runs are the same bit for bit, resumed ones too. For
one that must be so beside other work, state the number of threads (OMP_NUM_THREADS): a stated number is kept. It is also
kept where `plain` is the way, where torch has one thread, and where the system does not count what it takes away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

PREEMPTIONS = 200.0
"""So many per second tell of a neighbour: beside one there are 300, and 1,200 where waiting threads sleep soon. Alone there
are some 30, so a step of 0.04 s may have a handful by chance, and must not cost a trial."""

RUINED = 10.0
"""A step of so many times the fastest one's cost is not left to a rest."""

MARGIN = 0.9
"""A number of threads is kept if its steps take less than so much of the others' time."""

FIRST_REST, LAST_REST = 8, 64
"""Steps after a trial of fewer threads that failed until the next; doubled each time."""

FIRST_PATIENCE, LAST_PATIENCE = 64, 1024
"""Steps until more threads are tried again, which beside a neighbour costs many times a step; doubled each time."""


@dataclass(frozen=True)
class _Trial:
    """The next step of this kind runs on another number of threads, and is to take less than `cost`."""

    place: int
    kind: str
    cost: float


class Threads:
    """The number of threads of this process's steps. `step` is the only thing to call."""

    def __init__(
        self,
        *,
        seconds: Callable[[], float] = time.perf_counter,
        preemptions: Callable[[], int] | None = None,
    ) -> None:
        self._seconds = seconds
        self._preemptions = preemptions or _preemptions
        self._begin(1)

    def _begin(self, most: int) -> None:
        self.most = most
        self._counts = sorted({most, max(1, most - 1), max(1, most // 2), 1}, reverse=True)
        self._place = 0
        self._trial: _Trial | None = None
        self._since = 0
        self._rest, self._patience = 0, FIRST_PATIENCE
        self._fastest: dict[str, float] = {}

    @property
    def count(self) -> int:
        """How many threads the next step runs on."""
        return self._counts[self._place if self._trial is None else self._trial.place]

    @contextmanager
    def step(self, kind: str, work: int = 1) -> Iterator[None]:
        """Run the block on the chosen number of threads, and learn from its time.

        Steps of one kind are compared with each other, in seconds per unit of `work`.
        """
        own = torch.get_num_threads()
        if own != self.most:
            self._begin(own)
        if own == 1 or is_stated():
            yield
            return
        count, taken, start = self.count, self._preemptions(), self._seconds()
        if count != own:
            torch.set_num_threads(count)
        try:
            yield
        finally:
            if count != own:
                torch.set_num_threads(own)
        seconds = self._seconds() - start
        self._learn(kind, seconds / work, (self._preemptions() - taken) / max(seconds, 1e-9))

    def _learn(self, kind: str, cost: float, preemptions: float) -> None:
        if self._trial is not None:
            if kind == self._trial.kind:
                self._decide(self._trial, is_faster=cost < MARGIN * self._trial.cost)
            return
        self._since += 1
        self._fastest[kind] = min(cost, self._fastest.get(kind, cost))
        is_due = self._since > self._rest or cost > RUINED * self._fastest[kind]
        if preemptions > PREEMPTIONS and self._place + 1 < len(self._counts) and is_due:
            self._trial = _Trial(self._place + 1, kind, cost)
        elif self._place > 0 and self._since > self._patience:
            self._trial = _Trial(self._place - 1, kind, cost)

    def _decide(self, trial: _Trial, *, is_faster: bool) -> None:
        self._trial, self._since = None, 0
        if is_faster:
            self._place, self._rest, self._patience = trial.place, 0, FIRST_PATIENCE
        elif trial.place > self._place:
            self._rest = min(max(FIRST_REST, 2 * self._rest), LAST_REST)
        else:
            self._patience = min(2 * self._patience, LAST_PATIENCE)


def is_stated() -> bool:
    """True if the user has said how many threads there are to be."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def _preemptions() -> int:
    """How often the system took the processor from a thread of this process; 0 where it does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


THREADS = Threads()
