"""Calling a user's function under a time limit, in daemon threads or on an event loop of our own.

Every outcome is either the returned value or a `Failure`. Errors that Ventaja raises on purpose pass through:
they tell of a wrong set-up, not of one sample.

A thread past its limit cannot be stopped in Python. It is left behind, and its result is thrown away.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ventaja.environments.metrics import NotedMetrics, keep, noted_in_call
from ventaja.errors import VentajaError

THREADS = 16
"""Threads that isolate the samples of one function."""
COROUTINES = 64
"""Coroutines of one function awaited at once."""
_GRACE = 1.0
"""Seconds past its own limits after which an event loop that does not answer counts as blocked."""

Call = Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """A call that raised or ran past its limit."""

    error: str
    trace: str
    is_timeout: bool = False


def failure(error: BaseException) -> Failure:
    """What went wrong, in one line and in full."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    inside = error.__traceback__.tb_next if error.__traceback__ else None  # the first frame is ours
    return Failure(error=line, trace="".join(traceback.format_exception(type(error), error, inside)).rstrip())


def _out_of_time(limit: float, stack: str) -> Failure:
    line = f"ran past its limit of {limit:g} s"
    return Failure(error=line, trace=f"{stack.rstrip()}\n{line}".lstrip(), is_timeout=True)


def _not_called(tried: int, limit: float) -> Failure:
    line = f"not called: all samples before it ({tried}) ran past the limit of {limit:g} s"
    return Failure(error=line, trace=line, is_timeout=True)


def is_async(function: Callable[..., Any]) -> bool:
    """True for coroutine functions, partials of them, and objects whose `__call__` is one."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - asking what kind it is, not whether it is there
    )


def call_all(function: Callable[..., Any], calls: Sequence[Call], *, timeout: float) -> list[Any]:
    """The outcome of each call, in order; the calls run concurrently, each under the time limit."""
    if is_async(function):
        return start_async(function, calls, timeout=timeout)()
    outcomes = _call_in_threads(function, calls, timeout=timeout)
    late = [index for index, outcome in enumerate(outcomes) if inspect.isawaitable(outcome)]
    if late:  # a plain function that returned a coroutine, such as a lambda around an async one
        awaited = start_async(
            lambda value: value, [{"value": outcomes[index]} for index in late], timeout=timeout
        )
        for index, outcome in zip(late, awaited(), strict=True):
            outcomes[index] = outcome
    return outcomes


# ---------------------------------------------------------------------- threads


def _call_in_threads(function: Callable[..., Any], calls: Sequence[Call], *, timeout: float) -> list[Any]:
    outcomes: list[Any] = [None] * len(calls)
    finished: queue.SimpleQueue[tuple[int, Any, NotedMetrics]] = queue.SimpleQueue()
    running: dict[int, tuple[threading.Thread, float]] = {}

    def work(index: int) -> None:
        with noted_in_call() as noted:
            try:
                outcome = function(**calls[index])
            except VentajaError as error:
                outcome = error
            except BaseException as error:
                outcome = failure(error)
        finished.put((index, outcome, noted))

    started, is_answering = 0, False
    while True:
        # No more than the first threads' worth is started until one of them has answered.
        while len(running) < THREADS and started < (len(calls) if is_answering else min(THREADS, len(calls))):
            index, started = started, started + 1
            thread = threading.Thread(target=work, args=(index,), name="ventaja-reward", daemon=True)
            running[index] = (thread, time.monotonic() + timeout)
            thread.start()
        if not running:
            rest = len(calls) - started
            return outcomes[:started] + [_not_called(started, timeout)] * rest
        try:
            pause = min(deadline for _, deadline in running.values()) - time.monotonic()
            index, outcome, noted = finished.get(timeout=max(pause, 0.0))
        except queue.Empty:
            now = time.monotonic()
            for index in [index for index, (_, deadline) in running.items() if deadline <= now]:
                thread, _ = running.pop(index)
                outcomes[index] = _out_of_time(timeout, _stack(thread))
            continue
        if index in running:  # otherwise it answered after its limit
            del running[index]
            if isinstance(outcome, VentajaError):
                raise outcome
            if not isinstance(outcome, Failure):
                keep(noted)
            outcomes[index], is_answering = outcome, True


def _stack(thread: threading.Thread) -> str:
    """Where the thread is now: for a function that never ends, the line to look at."""
    frame = sys._current_frames().get(thread.ident or 0)
    frames = traceback.extract_stack(frame) if frame else []
    inside = [entry for entry in frames if entry.filename not in (__file__, threading.__file__)]
    return "It was here when its time was up:\n" + "".join(traceback.format_list(inside)) if inside else ""


# ---------------------------------------------------------------------- the event loop


class _Loop:
    """One event loop in a thread, kept for the life of the process.

    An HTTP client that an async reward function keeps between calls is bound to the loop it was first used
    on; a fresh loop per call would break it the second time.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="ventaja-async-rewards", daemon=True
        )
        self.thread.start()


_current: _Loop | None = None
_current_lock = threading.Lock()


def _loop() -> _Loop:
    global _current
    with _current_lock:
        if _current is None or not _current.thread.is_alive():
            _current = _Loop()
        return _current


def _abandon(loop: _Loop) -> None:
    global _current
    with _current_lock:
        if _current is loop:
            _current = None


def start_async(
    function: Callable[..., Any], calls: Sequence[Call], *, timeout: float
) -> Callable[[], list[Any]]:
    """Starts the calls on the event loop; the function it gives back waits for their outcomes."""
    loop = _loop()
    slots = asyncio.Semaphore(COROUTINES)
    first_answer = asyncio.Event()  # or that the first coroutines have all ended without one
    started, ended, is_answering = 0, 0, False

    async def limited(call: Call) -> tuple[Any, NotedMetrics]:
        with noted_in_call() as noted:
            return await answered(call), noted

    async def answered(call: Call) -> Any:
        nonlocal started, ended, is_answering
        async with slots:
            if started >= COROUTINES and not is_answering:
                await first_answer.wait()
                if not is_answering:
                    return _not_called(started, timeout)
            started += 1
            clock = asyncio.timeout(timeout)
            outcome: Any
            try:
                async with clock:
                    outcome = await function(**call)
            except VentajaError as error:
                outcome = error
            except BaseException as error:
                is_late = clock.expired() and isinstance(error, TimeoutError)
                outcome = _out_of_time(timeout, _awaited_at(error)) if is_late else failure(error)
            ended += 1
            is_answering = is_answering or not (isinstance(outcome, Failure) and outcome.is_timeout)
            if is_answering or ended >= COROUTINES:
                first_answer.set()
            return outcome

    futures: list[Future[tuple[Any, NotedMetrics]]] = [
        asyncio.run_coroutine_threadsafe(limited(call), loop.loop) for call in calls
    ]
    deadline = time.monotonic() + math.ceil(len(calls) / COROUTINES) * timeout + _GRACE

    def outcomes() -> list[Any]:
        found: list[Any] = []
        for future in futures:
            noted = NotedMetrics()
            outcome: Any
            try:
                outcome, noted = future.result(max(deadline - time.monotonic(), 0.0))
            except TimeoutError:
                _abandon(loop)
                line = "blocked the event loop: an async function must await, not wait (time.sleep, requests)"
                stack = _stack(loop.thread)
                outcome = Failure(error=line, trace=f"{stack.rstrip()}\n{line}".lstrip(), is_timeout=True)
            if isinstance(outcome, VentajaError):
                raise outcome
            if not isinstance(outcome, Failure):
                keep(noted)
            found.append(outcome)
        return found

    return outcomes


def _awaited_at(error: BaseException) -> str:
    """Where the coroutine was waiting when it was cancelled."""
    cancelled = error.__cause__ or error.__context__
    frames = traceback.extract_tb(cancelled.__traceback__) if cancelled else []
    inside = [entry for entry in frames if entry.filename != __file__]
    return "It was here when its time was up:\n" + "".join(traceback.format_list(inside)) if inside else ""
