"""What a user's function gives as a part: looked at in the run, and tried on a few tiny tensors before it.

Looked at are shape, kind of number and device, and that it and its gradient are finite. What is wrong becomes a page about
the function: which part, where it is written, what it did, what it was given and should give, what next.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ventaja.errors import ConfigError, VentajaError
from ventaja.models.memory import is_out_of_memory
from ventaja.named import one_line, where
from ventaja.training.algorithms import Algorithm
from ventaja.training.parts import CLIPS, KINDS, Own, located


def looked_at(kind: str, own: Own, given: Mapping[str, Any], error: type[VentajaError]) -> Tensor:
    """What the user's function gives, if it can be used. Raises `error` if not, also later, in the backward pass."""
    function = own.function
    assert function is not None, own
    arguments = {}
    for parameter, name in own.wants.items():
        argument = given[name]
        if isinstance(argument, torch.Tensor):
            argument = argument.clone()  # its own: what it does in place reaches nobody else
            if argument.requires_grad:
                argument.register_hook(functools.partial(_gradient_looked_at, kind, own, name, error))
        arguments[parameter] = argument

    def page(problem: str, advice: str) -> VentajaError:
        return error(_page(kind, own, problem, advice, {name: given[name] for name in own.wants.values()}))

    try:
        result = function(**arguments)
    except VentajaError:
        raise
    except Exception as problem:
        if is_out_of_memory(problem):
            raise
        raise page(f"raised {one_line(problem)}{_last_line(own, problem)}", "Mend it.") from problem
    like = given[KINDS[kind].like]
    shapes = [like.shape, like.shape[:1]] if kind == "ratio" else [like.shape]
    if not isinstance(result, torch.Tensor):
        raise page(f"gave a {type(result).__name__}, not a tensor", "Return a tensor.")
    if result.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        advice = {
            "surrogate": "Return a loss for every token: how they are averaged is token_weight's part.",
            "baseline": "A group's one number can be given to all: .expand_as(reward).",
        }.get(kind, "Return one number for each.")
        raise page(f"gave a tensor of shape {list(result.shape)}, not {expected}", advice)
    if not result.is_floating_point():
        raise page(f"gave {_dtype(result)}, not floating-point numbers", "Convert them: .float().")
    if result.device != like.device:
        raise page(
            f"gave a tensor on {result.device}, not {like.device}",
            "Make new tensors where the arguments are: torch.zeros_like(…), tensor.new_zeros(…).",
        )
    counted = {"baseline": "is_valid", "scale": "is_valid", "token_weight": "is_action"}.get(kind)
    if counted is not None:  # elsewhere it may say anything
        result = result.where(given[counted], 0.0)
    if not result.isfinite().all():
        index = [int(i) for i in (~result.isfinite()).nonzero()[0]]
        there = ", ".join(
            f"{name} {x[tuple(index)].item():.4g}"
            for name in own.wants.values()
            if isinstance(x := given[name], torch.Tensor) and x.dim() == len(index) and x.dtype != torch.bool
        )
        raise page(
            f"gave {result[tuple(index)].item()} at {index}{f', where {there}' if there else ''}",
            "Keep it finite: bound what goes into exp and log, and add a little to what is divided by.",
        )
    is_moved = any(isinstance(x, torch.Tensor) and x.requires_grad for x in given.values())
    if kind in {"surrogate", "kl_estimator"} and is_moved and not result.requires_grad:
        raise page(
            "gave numbers without a gradient to log π",
            "Compute them from logprob or log_ratio, without .detach(), .item() or torch.no_grad() around all of them.",
        )
    return result


def _gradient_looked_at(kind: str, own: Own, name: str, error: type[VentajaError], gradient: Tensor) -> None:
    if not gradient.isfinite().all():
        raise error(
            f"algorithm.{kind}: {located(own, own.function)} gave finite numbers, but their gradient at {name} is not.\n"
            "  Where a formula has no slope (a square root at 0, a branch of torch.where that is not taken), bound what goes "
            "into it."
        )


def _page(kind: str, own: Own, problem: str, advice: str, given: Mapping[str, Any]) -> str:
    """What part, which function and where, what it did, what it was given and what it should give, what next."""

    def described(value: Any) -> str:
        return f"{list(value.shape)} {_dtype(value)}" if isinstance(value, torch.Tensor) else str(value)

    call_ = ", ".join(f"{name} {described(value)}" for name, value in given.items())
    return (
        f"algorithm.{kind}: {located(own, own.function)} {problem}.\n"
        f"  It was given {call_ or 'nothing'}, and should give {KINDS[kind].gives}.\n  {advice}"
    )


def _last_line(own: Own, problem: Exception) -> str:
    """`, at losses.py:7: return a / b`: the last line of the user's file that was reached."""
    file = where(own.function).rpartition(":")[0] if own.function else ""
    lines = [entry for entry in traceback.extract_tb(problem.__traceback__) if entry.filename == file]
    return f", at {file}:{lines[-1].lineno}: {lines[-1].line}" if lines else ""


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


# Trying it before the run -----------------------------------------------------------------------------------


def check_parts(algorithm: Algorithm) -> None:
    """Try the user's functions on a few tiny tensors, on the CPU. Raises ConfigError with a page about what is wrong."""
    for kind in KINDS:
        own = getattr(algorithm, kind)
        is_used = kind != "kl_estimator" or algorithm.kl != "none"
        if isinstance(own, Own) and own.function is not None and is_used:
            try_out(algorithm, kind, own)


def try_out(algorithm: Algorithm, kind: str, own: Own) -> None:
    """Raises ConfigError if the function cannot be used. It is called a few times, on the CPU."""
    given = _tiny(algorithm, kind)
    result = looked_at(kind, own, given, ConfigError)

    def page(problem: str, advice: str) -> ConfigError:
        return ConfigError(_page(kind, own, problem, advice, {n: given[n] for n in own.wants.values()}))

    if kind in {"surrogate", "kl_estimator", "ratio"}:  # rows are cut as memory has it
        part = {n: x[:2] if isinstance(x, torch.Tensor) else x for n, x in given.items()}
        if not torch.allclose(looked_at(kind, own, part, ConfigError), result[:2], rtol=1e-4, atol=1e-6):
            one, more = ("sequence", "sequences") if kind == "ratio" else ("token", "tokens")
            raise page(
                f"gave a {one} another number when fewer {more} came with it",
                f"Which {more} come together is a matter of memory, so a {one}'s number must follow from that {one} "
                "alone (and not from chance). What looks at the whole batch belongs into baseline, scale or token_weight.",
            )
    if kind == "surrogate" or (kind == "kl_estimator" and algorithm.kl == "loss"):
        logprob = given["logprob" if kind == "surrogate" else "log_ratio"]
        (gradient,) = torch.autograd.grad(result.sum(), logprob, allow_unused=True)
        if gradient is None or not gradient.any():
            raise page(
                "has a gradient of 0 to log π, so nothing would be learned from it",
                "Let logprob or log_ratio reach the result with a gradient.",
            )
    if kind == "baseline":
        moved = looked_at(kind, own, given | {"reward": given["reward"] + 1.0}, ConfigError)
        if torch.allclose(moved, result, atol=1e-5) and not torch.allclose(
            result[given["is_valid"]], result[0, 0]
        ):
            raise page(
                "gave the same when every reward was higher by 1, as advantages are",
                "A baseline is what is subtracted from the reward: return the mean, not the reward less the mean.",
            )


def _tiny(algorithm: Algorithm, kind: str) -> dict[str, Any]:
    """A few tokens or answers with what happens in training: fresh ones, moved ones, advantages of 0, equal rewards."""
    new = torch.tensor([-0.1, -0.5, -1.0, -2.0, -0.7, -3.0])
    moved = torch.tensor([0.0, 0.0, 0.5, -0.5, 0.05, -1.5])
    is_valid = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False], [False] * 4])
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.0], [1.0] * 4, [2.0, -1.0, 0.0, 0.0], [0.0] * 4])
    if kind == "surrogate":
        logprob = new.requires_grad_()
        old = (new - moved).detach()
        return {
            "logprob": logprob,
            "old_logprob": old,
            "log_ratio": logprob - old,
            "advantage": torch.tensor([1.0, 0.0, -1.0, 0.5, -0.5, 2.0]),
            "is_action": torch.tensor([True] * 5 + [False]),
            **{name: getattr(algorithm, name) for name in CLIPS},
        }
    if kind == "kl_estimator":
        moved = moved if algorithm.kl == "reward" else moved.requires_grad_()
        return {"log_ratio": moved, "old_log_ratio": 0.1 * moved}
    if kind == "ratio":
        return {"log_ratio": reward[:3], "is_action": is_valid[:3]}  # what has no action is in no row
    if kind == "token_weight":
        return {"is_action": is_valid, "length": 5}
    return {"reward" if kind == "baseline" else "advantage": reward, "is_valid": is_valid}
