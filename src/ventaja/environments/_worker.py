"""Verifiers that run in a process of their own, because only a process can be stopped.

Symbolic mathematics can be asked for 9^(9^9): one call into the big-integer code that never gives Python's
lock back, so a time limit kept by a thread would hang together with the whole training run. A child process
is killed instead, and the next sample gets a new one.

The same file is both sides. Started as a script it is the child: it reads one Python literal per line from
standard input and answers each with one on standard output, and it imports nothing of ours. Literals keep
tuples, sets and integer keys, which JSON would change, and loading them runs no code.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

_START_LIMIT = 120.0
"""Seconds that a child may take to import its library (a cold disk is slow)."""
_KEPT = 2
"""Idle children kept per verifier."""


class WorkerError(Exception):
    """The verifier failed on one sample; the message is its traceback."""


class WorkerStartError(Exception):
    """The process could not be started, so that no sample can be judged."""


# ---------------------------------------------------------------------- the parent's side


class _Worker:
    """One child process, used by one thread at a time."""

    def __init__(self, kind: str) -> None:
        self._is_late = False
        self._process = subprocess.Popen(
            # -P keeps this folder off the child's import path, where our module names would shadow others.
            [sys.executable, "-P", os.path.abspath(__file__), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="surrogatepass",
        )
        reply = self._read(_START_LIMIT)
        if reply is None or "error" in reply:
            self.close()
            reason = reply["error"] if reply else "it ended before it was ready"
            raise WorkerStartError(f"the {kind} process did not start: {reason}")

    def ask(self, arguments: Mapping[str, Any], limit: float) -> float | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(repr((dict(arguments), limit)) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"the verifier's process is gone ({error})") from error
        reply = self._read(limit)
        if reply is None:
            if self._is_late:
                raise TimeoutError(f"no verdict within {limit:g} s; its process was stopped")
            raise WorkerError("the verifier's process died")
        if "error" in reply:
            raise WorkerError(reply["error"])
        score: float | None = reply["score"]
        return score

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _read(self, limit: float) -> dict[str, Any] | None:
        """The next reply; None if the child ended first, which the timer sees to once the limit passes."""
        assert self._process.stdout is not None
        timer = threading.Timer(limit, self._stop)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self.close()
            return None
        reply: dict[str, Any] = ast.literal_eval(line)
        return reply

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was left to flush has no reader any more
                pipe.close()


_idle: dict[str, list[_Worker]] = {}
_lock = threading.Lock()


def score_apart(kind: str, arguments: Mapping[str, Any], *, limit: float) -> float | None:
    """The score that the verifier `kind` gives, asked in a process that is killed after `limit` seconds.

    Raises:
        TimeoutError: the verifier ran out of time, and its process was killed.
        WorkerError: it raised, or its process died.
        WorkerStartError: its process could not be started.
    """
    with _lock:
        idle = _idle.setdefault(kind, [])
        worker = idle.pop() if idle else None
    if worker and not worker.is_alive:
        worker.close()
        worker = None
    if worker is None:
        worker = _Worker(kind)
    try:
        return worker.ask(arguments, limit)
    finally:
        with _lock:
            keep = worker.is_alive and len(idle) < _KEPT
            if keep:
                idle.append(worker)
        if not keep:
            worker.close()


@atexit.register
def close_workers() -> None:
    """Ends the idle children; the next call starts new ones."""
    with _lock:
        workers = [worker for idle in _idle.values() for worker in idle]
        for idle in _idle.values():
            idle.clear()
    for worker in workers:
        worker.close()


# ---------------------------------------------------------------------- shared by both sides


def build_reasoning_gym(name: str, options: Mapping[str, Any]) -> Any:
    """The reasoning-gym data set; the parts of a `composite` may be given as plain mappings."""
    import reasoning_gym

    settings = dict(options)
    if name == "composite":
        from reasoning_gym.composite import DatasetSpec

        settings["datasets"] = [
            DatasetSpec(**{"weight": 1.0, "config": {}, **part}) if isinstance(part, Mapping) else part
            for part in settings.get("datasets") or ()
        ]
    return reasoning_gym.create_dataset(name, **settings)


# ---------------------------------------------------------------------- the child's side


def _math_scorer() -> Callable[..., float]:
    from math_verify import parse, verify

    def as_math(answer: str) -> list[Any]:
        # A bare answer such as (1,2) or \frac12 is read as LaTeX; one that marks its mathematics, as it is.
        marked = any(mark in answer for mark in ("$", r"\boxed", r"\(", r"\["))
        readings = (answer,) if marked else (f"${answer}$", answer)
        parsed = (parse(reading, parsing_timeout=None) for reading in readings)
        return next((found for found in parsed if found), [])

    def score(gold: str, text: str) -> float:
        expected = as_math(gold)
        if not expected:
            raise ValueError(f"the expected answer {gold!r} cannot be read as mathematics")
        found = parse(text, parsing_timeout=None)
        return float(bool(found) and verify(expected, found, timeout_seconds=None))

    parse("$1$", parsing_timeout=None)  # builds its patterns now, not within the first sample's limit
    return score


def _reasoning_gym_scorer() -> Callable[..., float]:
    import reasoning_gym  # noqa: F401

    datasets: dict[str, Any] = {}

    def score(text: str, entry: Mapping[str, Any], dataset: str, options: Mapping[str, Any]) -> float:
        key = repr((dataset, options))
        if key not in datasets:
            datasets[key] = build_reasoning_gym(dataset, options)
        return float(datasets[key].score_answer(text, entry))

    return score


_SCORERS: dict[str, Callable[[], Callable[..., float]]] = {
    "math_verify": _math_scorer,
    "reasoning_gym": _reasoning_gym_scorer,
}


def _serve(kind: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
    sys.stdout = sys.stderr  # whatever a library prints must not pass for an answer
    questions = os.fdopen(os.dup(0), encoding="utf-8", errors="surrogatepass")

    def answer(**reply: Any) -> None:
        answers.write(repr(reply) + "\n")
        answers.flush()

    try:
        scorer = _SCORERS[kind]()
    except Exception:
        return answer(error=traceback.format_exc())
    answer(ready=True)
    for line in questions:
        try:
            arguments, limit = ast.literal_eval(line)
            if hasattr(signal, "alarm"):
                # Should the parent be gone, nobody else would end a computation that never ends.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(math.ceil(limit) + 1)
            score = scorer(**arguments)
        except Exception:
            answer(error=traceback.format_exc())
        else:
            answer(score=score)
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return None


if __name__ == "__main__":
    _serve(sys.argv[1])
