"""Requests in, judged groups out: an environment asks, an engine answers, and both are held to what was asked.

Either may be somebody else's. Whatever it returns is looked at before anything is learned from it, and what it raises
becomes a message with its own last lines.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ventaja.environments import Environment, check_broken
from ventaja.errors import RolloutError, VentajaError
from ventaja.models import Policy
from ventaja.models.chat import Tokenizer
from ventaja.models.memory import is_out_of_memory
from ventaja.models.offsets import Offsets, token_offsets
from ventaja.records import Completion, Finished, Group, Judgement, Request, StopReason, Trajectory
from ventaja.rollouts.engine import Engine, Interrupted, Sampling

LAST_LINES = 8
"""Of a traceback that is shown."""
ROUNDING = 1e-3
"""The log-prob of a token that was nearly certain may come out so much above 0."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """An engine with everything that stays the same while an environment asks it."""

    engine: Engine
    sampling: Sampling
    version: int = 0
    """Optimiser steps that the engine's weights have seen: completions must be theirs."""
    vocabulary: int
    """Token ids are below it."""
    tokenizer: Tokenizer
    """The policy's: what its tokens say."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked before each token: if True, sampling raises Interrupted."""
    phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()
    """Sampling goes on inside `phase("sampling")`, and all else of a rollout inside `phase("judging")`."""
    finished: Finished | None = None
    """Told of each completion, beside the environment."""

    def __call__(
        self, requests: Sequence[Request], *, finished: Finished | None = None
    ) -> list[tuple[Completion, ...]]:
        """The engine's completions. Raises RolloutError if they are not what was asked for."""
        listeners = [listener for listener in (finished, self.finished) if listener is not None]

        def tell(request: int, k: int, completion: Completion) -> None:
            try:
                for listener in listeners:
                    listener(request, k, completion)
            except Exception as error:
                _blame(error, "environment")
                raise

        told = {"finished": tell} if listeners else {}
        with self.phase("sampling"), _explained("engine", self.engine):
            answers = self.engine.sample(requests, self.sampling, should_stop=self.should_stop, **told)
        self._check(requests, answers)
        return answers

    def offsets(self, completion: Completion) -> Offsets:
        """See `Ask.offsets`."""
        return token_offsets(self.tokenizer, completion.token_ids, completion.text)

    def encode(self, text: str) -> tuple[int, ...]:
        """See `Ask.encode`."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _check(self, requests: Sequence[Request], answers: Any) -> None:
        who = f"the engine {_name(self.engine)}"
        advice = "Engine.sample returns `count` completions for each request, in order."
        if not isinstance(answers, Sequence) or len(answers) != len(requests):
            raise RolloutError(f"{who} answered {_count(answers)} of {len(requests)} requests. {advice}")
        for request, completions in zip(requests, answers, strict=True):
            where = f"{who}, asked {request.prompt.id},"
            if not isinstance(completions, Sequence) or len(completions) != request.count:
                raise RolloutError(
                    f"{where} returned {_count(completions)} completions instead of {request.count}. {advice}"
                )
            for completion in completions:
                if problem := self._problem(completion):
                    raise RolloutError(f"{where} returned {problem}")

    def _problem(self, completion: Any) -> str | None:
        """What is wrong with a completion, and what would be right."""
        if not isinstance(completion, Completion):
            return f"{type(completion).__name__} ({completion!r:.80}). Return ventaja.records.Completion."
        tokens, most = completion.token_ids, self.sampling.max_tokens
        wanted = {"token_ids": (int, "integers"), "logprobs": (float, "floats")}
        for name, (kind, what) in wanted.items():
            values = getattr(completion, name)
            if not (isinstance(values, tuple) and all(isinstance(x, kind) for x in values)):
                return f"{name} that are no tuple of {what} ({values!r:.80}). Make them one: tuple(tensor.tolist())."
        if not (isinstance(completion.text, str) and isinstance(completion.stop, StopReason)):
            return (
                f"the text {completion.text!r:.40} and stop {completion.stop!r:.40}. They are a str and a "
                "ventaja.records.StopReason."
            )
        if not tokens:
            return "a completion without tokens. Its end-of-sequence token is one of them."
        if len(tokens) > most:
            return f"{len(tokens)} tokens, but sampling.max_tokens is {most}. Stop there, with StopReason.LENGTH."
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            outside = next(token for token in tokens if not 0 <= token < self.vocabulary)
            return (
                f"the token {outside}, but the model's tokens are 0 to {self.vocabulary - 1}. Sample with the "
                "model and the tokenizer that are trained."
            )
        if not math.isfinite(sum(completion.logprobs)) or max(completion.logprobs) > ROUNDING:
            wrong = next(x for x in completion.logprobs if not (math.isfinite(x) and x <= ROUNDING))
            return (
                f"the log-prob {wrong:.4g}. A log-prob is finite and at most 0: the logarithm of the probability "
                "with which the token was drawn."
            )
        if completion.weight_version != self.version:
            return (
                f"a completion of weights {completion.weight_version}, but those handed to it are {self.version}. "
                "Sample from the weights of the last `load`, and give its `version`."
            )
        return None


def load_weights(engine: Engine, policy: Policy, *, version: int) -> None:
    """Hand the policy's weights to the engine. Raises RolloutError for what somebody's own raises."""
    with _explained("engine", engine):
        engine.load(policy, version=version)


def release(engine: Engine) -> None:
    """Have the engine give back what memory only sampling needs. Raises RolloutError for what somebody's own raises."""
    with _explained("engine", engine):
        engine.release()


def roll_out(
    environment: Environment, ask: Asking, requests: Sequence[Request], *, max_broken_fraction: float
) -> list[Group]:
    """A judged group for each request, in order.

    Raises RolloutError for what the environment or the engine did not do as asked, RewardError if more than
    `max_broken_fraction` of the judgements are broken, and Interrupted if sampling was told to stop.
    """
    heard = _Heard(ask)
    with ask.phase("judging"):
        with _explained("environment", environment):
            groups = environment.rollout(heard, requests)
        if heard.was_stopped:  # an environment may have caught what told it so
            raise Interrupted
        heard.check(environment, requests, groups)
        check_broken(groups, limit=max_broken_fraction)
    return groups


class _Heard:
    """The engine as an environment sees it in one rollout; it remembers what was said, to hold the groups against."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.was_stopped = False
        self._said: set[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]] = set()
        self._seeds: set[tuple[int, ...]] = set()

    def __call__(
        self, requests: Sequence[Request], *, finished: Finished | None = None
    ) -> list[tuple[Completion, ...]]:
        for request in requests:
            if request.seed in self._seeds:
                raise RolloutError(
                    f"{request.prompt.id}: an environment asked twice with the seed {request.seed}, so both answers would "
                    "be drawn from the same random numbers. Give each request its own: Request.after(k, *turns) does, for "
                    "trajectory k's next turn."
                )
            self._seeds.add(request.seed)
        try:
            answers = self.asking(requests, finished=finished)
        except Interrupted:
            self.was_stopped = True
            raise
        for request, completions in zip(requests, answers, strict=True):
            self._said |= {(request.prompt_ids, c.token_ids, c.logprobs) for c in completions}
        return answers

    def offsets(self, completion: Completion) -> Offsets:
        return self.asking.offsets(completion)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.asking.encode(text)

    def check(self, environment: Environment, requests: Sequence[Request], groups: Any) -> None:
        """Raises RolloutError if the groups are not what was asked for, or hold what was not said so."""
        who = f"the environment {_name(environment)}"
        advice = "Environment.rollout returns one judged group for each request, in order."
        if inspect.isawaitable(groups):
            raise RolloutError(f"{who} has an async rollout, and nobody would wait for it. {advice}")
        if not isinstance(groups, Sequence) or len(groups) != len(requests):
            raise RolloutError(
                f"{who} returned {_count(groups)} groups for {len(requests)} requests. {advice}"
            )
        for request, group in zip(requests, groups, strict=True):
            where = f"{who}, given {request.prompt.id},"
            if not isinstance(group, Group):
                raise RolloutError(f"{where} returned {type(group).__name__} ({group!r:.80}). {advice}")
            if group.prompt_ids != request.prompt_ids:
                raise RolloutError(
                    f"{where} returned the group of {group.prompt.id}, another prompt. {advice}"
                )
            if len(group) != request.count:
                raise RolloutError(
                    f"{where} returned {len(group)} trajectories instead of {request.count}. One that failed is "
                    "returned too, with a judgement that has a Fault."
                )
            if not group.judgements:
                raise RolloutError(
                    f"{where} returned a group without judgements. Give it one for each trajectory."
                )
            for trajectory, judgement in group.judged():
                problem = self._wrong_turn(group, trajectory) or _wrong_reward(trajectory, judgement)
                if problem:
                    raise RolloutError(f"{where} {problem}")

    def _wrong_turn(self, group: Group, trajectory: Trajectory) -> str | None:
        """What was learned from would be another thing than what was sampled."""
        said = group.prompt_ids
        for turn in trajectory.turns:
            if isinstance(turn, Completion):
                if (said, turn.token_ids, turn.logprobs) not in self._said:
                    return (
                        f"returned a completion ({turn.text[:40]!r}) that was not sampled behind what stands before it. "
                        "Give each trajectory all of its turns, as they were asked for: Request.after(k, *turns) asks "
                        "for the next one."
                    )
            elif turn.token_ids and not (
                min(turn.token_ids) >= 0 and max(turn.token_ids) < self.asking.vocabulary
            ):
                return (
                    f"gave a turn with tokens that the model does not have; they are 0 to {self.asking.vocabulary - 1}. "
                    "ask.encode(text) gives those of a text."
                )
            said += turn.token_ids
        return None


def _wrong_reward(trajectory: Trajectory, judgement: Any) -> str | None:
    if not isinstance(judgement, Judgement):
        return f"judged by {type(judgement).__name__} ({judgement!r:.80}). Return ventaja.records.Judgement."
    for name, score in judgement.components.items():
        if not (score is None or isinstance(score, Real)):
            return f"gave {name} the score {score!r:.80}. A component is a number, or None where it did not judge."
    for place, reward in judgement.stream:
        if not 0 <= place < len(trajectory):
            return (
                f"gave a reward to token {place} of a trajectory of {len(trajectory)} tokens. Count from 0."
            )
        if not (isinstance(reward, Real) and math.isfinite(reward)):
            return (
                f"gave the reward {reward!r:.80} at token {place}. A reward is a finite number; a trajectory that "
                "cannot be judged has an empty stream, one that broke has a Fault."
            )
    return None


BLAMED = "ventaja_blames"
"""The attribute of an error that says whose it is, where that is not whoever it passes through."""


def _blame(error: Exception, whom: str) -> None:
    if not hasattr(error, BLAMED):
        setattr(error, BLAMED, whom)


@contextmanager
def _explained(what: str, joint: object) -> Iterator[None]:
    """Turns what somebody else's engine or environment raises into a RolloutError with its own last lines.

    Not so for ours, where it is a mistake of ours, nor for memory, of which the loop knows what to say.
    """
    try:
        yield
    except (VentajaError, Interrupted):
        raise
    except Exception as error:
        is_ours = type(joint).__module__.startswith("ventaja.")
        if is_ours and what == "engine":
            _blame(error, "us")
        if is_ours or is_out_of_memory(error) or getattr(error, BLAMED, what) != what:
            raise
        trace = error.__traceback__
        while trace and trace.tb_next and trace.tb_frame.f_globals.get("__name__", "").startswith("ventaja."):
            trace = trace.tb_next
        lines = "".join(traceback.format_exception(type(error), error, trace)).rstrip().splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
        raise RolloutError(
            f"the {what} {_name(joint)} raised {type(error).__name__}: {error}\n{shown}\nMend it; nothing was "
            "learned from what it was asked last."
        ) from error


def _name(joint: object) -> str:
    return repr(type(joint).__name__)


def _count(things: object) -> str:
    return str(len(things)) if isinstance(things, Sequence) else type(things).__name__
