"""Where memory runs out: smaller rows, then gradient checkpointing, then an error that helps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from tiny import make_policy, shared_policy
from tiny_task import group

from ventaja.errors import ConfigError, RunError
from ventaja.models import Bundle, Policy, pack_row
from ventaja.models.memory import check_memory_limit, data_in_use, is_out_of_memory, memory_limit
from ventaja.training.batch import Batch, Row
from ventaja.training.config import OptimiserConfig
from ventaja.training.optimiser import Optimiser
from ventaja.training.row_budget import RowBudget

ANSWERS = [(5, 6, 7, 8), (9, 10, 11), (12, 13, 14, 15, 16), (17, 18)]


def batch() -> Batch:
    """Four prompts of 3 tokens with an answer each: 7, 6, 8 and 5 tokens. In a row an answer's last token is left out."""
    return Batch.of_groups([group((2, 3, 4), [answer], [0.0]) for answer in ANSWERS])


def cut(tokens: int) -> list[Row]:
    return batch().rows(range(4), max_tokens=tokens)


class Machine:
    """Holds rows of so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.tried: list[int] = []

    def compute(self, rows: Sequence[Row]) -> int:
        for row in rows:
            self.tried.append(row.packed.tokens)
            if row.packed.tokens > self.tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return sum(row.packed.tokens for row in rows)


def test_rows_are_halved_until_they_fit_and_stay_so() -> None:
    machine, notes, undone = Machine(12), list[str](), list[int]()
    budget = RowBudget(4096, make_policy(), note=notes.append)
    # all 22 tokens; then at most 11, with the last ones counted: 8, 7, and 6 + 5
    assert budget.run(cut, machine.compute, undo=lambda: undone.append(1)) == 22
    assert machine.tried == [22, 7, 6, 9]
    assert budget.run(cut, machine.compute) == 22
    assert machine.tried[4:] == [7, 6, 9]
    assert len(undone) == 1
    assert notes == [
        "A row of 22 tokens did not fit into memory. From here on rows have at most 11; to begin with that, set "
        "--optimiser.max_tokens 11"
    ]


def test_a_sequence_that_cannot_be_cut_turns_on_checkpointing_and_then_fails() -> None:
    notes, policy = list[str](), make_policy()
    budget = RowBudget(8, policy, note=notes.append)
    with pytest.raises(RunError, match="a sequence of 7 tokens does not fit into memory, even alone"):
        budget.run(cut, Machine(6).compute)
    assert policy.recomputes
    assert len(notes) == 1
    assert "optimiser.gradient_checkpointing" in notes[0]


def test_other_errors_pass() -> None:
    def fail(rows: Sequence[Row]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        RowBudget(64, shared_policy(), note=print).run(cut, fail)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data")
def test_memory_that_really_runs_out() -> None:
    notes = list[str]()
    budget = RowBudget(4096, make_policy(), note=notes.append)

    def compute(rows: Sequence[Row]) -> int:
        return sum(
            len(torch.empty(row.packed.tokens, 2**26)) for row in rows
        )  # 256 MiB a token, never touched

    with memory_limit(torch.device("cpu"), data_in_use() + 3):
        assert budget.run(cut, compute) == 22  # 22 tokens, 5.5 GiB, do not fit; 9 do, in 2.25
    assert len(notes) == 1
    assert compute(cut(4096)) == 22


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data")
def test_a_limit_below_what_is_in_use_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.max_memory is 0\.001 GiB, but"):
        check_memory_limit(torch.device("cpu"), 0.001)


def test_how_running_out_is_told() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_memory_that_runs_out_while_a_gradient_is_kept_leaves_nothing_of_it(
    compute: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for fails in (False, True):
        policy = make_policy()
        failures = iter([fails])

        def fail_once(*_: object, failures: Iterator[bool] = failures) -> None:
            if next(failures, False):
                raise torch.OutOfMemoryError("out of memory")

        # Before the optimiser's own hook, so that the gradient is in the module and has not reached its master.
        policy.causal_lm.get_input_embeddings().weight.register_post_accumulate_grad_hook(fail_once)
        optimiser = Optimiser(policy, OptimiserConfig(), total_updates=1, compute=compute)
        budget = RowBudget(4096, policy, note=lambda text: None)

        def gradients(rows: Sequence[Row], policy: Policy = policy) -> None:
            for row in rows:
                policy.score(row.packed).logprob_M.sum().backward()

        budget.run(cut, gradients, undo=optimiser.forget_gradients)
        results.append([m.grad for m in optimiser.masters.values()])
        assert budget.tokens == (11 if fails else 4096)
    for whole, again in zip(*results, strict=True):
        error = 2e-2 if compute == torch.bfloat16 else 1e-5
        assert (whole - again).norm() <= error * whole.norm()


@pytest.mark.parametrize("way", ["score", "score_padded"])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bloom"])
def test_gradient_checkpointing_changes_no_bit(kind: str, way: str) -> None:
    row = pack_row([Bundle(prompt_ids=[5, 6, 7], answers=[[8, 9], [10, 11, 12]])])
    results = []
    for recomputes in (False, True):
        policy = make_policy(kind)
        policy.recomputes = recomputes
        logprob_M = getattr(policy, way)(row).logprob_M
        logprob_M.sum().backward()
        results.append([logprob_M.detach(), *(p.grad for _, p in policy.parameters())])
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


def test_gradient_checkpointing_keeps_less() -> None:
    row = pack_row([Bundle(prompt_ids=list(range(3, 50)), answers=[list(range(3, 90))] * 3)])
    kept = []
    for recomputes in (False, True):
        policy = make_policy()
        policy.recomputes = recomputes
        size = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            policy.score(row)
        kept.append(size)
        assert not any(m.training or "forward" in vars(m) for m in policy.causal_lm.model.layers)
    assert kept[1] < kept[0] / 3
