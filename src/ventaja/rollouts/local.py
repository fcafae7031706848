"""The engine in this process: prefill once per prompt, continuous batching, one random stream per answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ventaja.cpu import Packed
from ventaja.errors import DataError
from ventaja.models import Bundle, Policy, pack_row
from ventaja.records import Completion, Request, StopReason
from ventaja.rollouts.answer import Answer
from ventaja.rollouts.decoding import Decode, Membership, Prefill, SharedCache
from ventaja.rollouts.draw import draw
from ventaja.rollouts.engine import Interrupted, Sampling
from ventaja.rollouts.plain import PlainBatch
from ventaja.rollouts.stop_strings import StopStrings

PREFILL_TOKENS = 8192
"""Prompts are prefilled in rows of about this many tokens."""


class LocalEngine:
    """Samples with the policy's own module; on a CPU with a copy of its weights that multiplies faster.

    At most `max_batch` answers are sampled at once. Finished ones leave the batch, waiting ones enter.
    """

    def __init__(self, policy: Policy, *, max_batch: int = 128) -> None:
        self.max_batch = max_batch
        self.load(policy, version=0)

    def load(self, policy: Policy, *, version: int) -> None:
        self.policy = policy
        self.version = version
        self.release()

    def release(self) -> None:
        self._weights: Packed | None = None

    @torch.inference_mode()
    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        finished: Callable[[int, int, Completion], None] = lambda request, k, completion: None,
    ) -> list[tuple[Completion, ...]]:
        """See `Engine.sample`. Raises DataError for a prompt that leaves no room for an answer."""
        if not requests:
            return []
        if self._weights is None:
            self._weights = self.policy.cpu.pack(self.policy.causal_lm)
        with self._weights.active():
            return self._sample(requests, sampling, should_stop, finished)

    def _sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        should_stop: Callable[[], bool],
        finished: Callable[[int, int, Completion], None],
    ) -> list[tuple[Completion, ...]]:
        waiting = deque(self._queue(requests, sampling))
        longest = max(len(request.prompt_ids) for request in requests)
        kind = SharedBatch if self.policy.is_packed(longest) else PlainBatch
        batch = kind(self.policy, requests, self.max_batch)
        stop_strings = StopStrings(self.policy.tokenizer, sampling.stop)
        done: dict[tuple[int, int], Completion] = {}
        cpu = self.policy.cpu

        def choose(rows: Sequence[int], logits_BV: Tensor) -> None:
            answers = [batch.answers[row] for row in rows]
            uniform_B = torch.tensor([a.uniforms[len(a.tokens)] for a in answers], dtype=torch.float64)
            token_B, logprob_B = draw(logits_BV, uniform_B.to(logits_BV.device), sampling)
            ended = []
            for row, answer, token, logprob in zip(
                rows, answers, token_B.tolist(), logprob_B.tolist(), strict=True
            ):
                answer.tokens.append(token)
                answer.logprobs.append(logprob)
                if (stop := self._stop_reason(answer, stop_strings)) is not None:
                    completion = self._completion(answer, stop, stop_strings)
                    done[answer.request, answer.index] = completion
                    ended.append(row)
                    finished(answer.request, answer.index, completion)
            batch.remove(ended)

        while waiting or batch.answers:
            if should_stop():
                raise Interrupted
            if fresh := batch.admit(waiting):
                choose(fresh, batch.first_logits(fresh))
            if batch.answers:
                with cpu.step("decoding"):
                    choose(range(len(batch.answers)), batch.next_logits())
        return [tuple(done[r, k] for k in range(request.count)) for r, request in enumerate(requests)]

    def _queue(self, requests: Sequence[Request], sampling: Sampling) -> list[Answer]:
        queue = []
        for r, request in enumerate(requests):
            limit = sampling.max_tokens
            prompt = len(request.prompt_ids)
            if (room := self.policy.room(prompt)) is not None:
                limit = min(limit, room)
                if limit < 1:
                    raise DataError(
                        f"a prompt of {prompt} tokens leaves no room for an answer in {self.policy.name}'s context of "
                        f"{prompt + room}. Shorten or drop it (data.max_prompt_tokens)."
                    )
            for k in range(request.count):
                uniforms = np.random.default_rng([*request.seed, k]).random(limit)
                queue.append(Answer(request=r, index=k, uniforms=uniforms))
        return queue

    def _stop_reason(self, answer: Answer, stop_strings: StopStrings) -> StopReason | None:
        if answer.tokens[-1] in self.policy.eos_ids:
            return StopReason.EOS
        if stop_strings.complete(answer.tokens):
            return StopReason.STOP_STRING
        return StopReason.LENGTH if len(answer.tokens) == len(answer.uniforms) else None

    def _completion(self, answer: Answer, stop: StopReason, stop_strings: StopStrings) -> Completion:
        text = self.policy.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        if stop is StopReason.STOP_STRING:
            text = stop_strings.cut(text)
        return Completion(
            token_ids=tuple(answer.tokens),
            logprobs=tuple(answer.logprobs),
            text=text,
            stop=stop,
            weight_version=self.version,
        )


class SharedBatch:
    """The answers being sampled now, row by row, and their cache."""

    def __init__(self, policy: Policy, requests: Sequence[Request], max_batch: int) -> None:
        self.policy = policy
        self.requests = requests
        self.answers: list[Answer] = []
        self.slot_of: dict[int, int] = {}
        """Prompt slot of each request that has answers here."""
        self.capacity = min(max_batch, sum(request.count for request in requests))
        self.prompts = min(len(requests), self.capacity)
        self.cache = SharedCache(
            prompts=self.prompts,
            prompt_length=max(len(request.prompt_ids) for request in requests),
            answers=self.capacity,
        )
        self.last_hidden: dict[int, Tensor] = {}
        """Each request's hidden state at its prompt's end, from which every answer's first token is drawn."""
        self._members: Membership | None = None

    def admit(self, waiting: deque[Answer]) -> list[int]:
        """Let waiting answers in when a quarter of the batch is free; prefill the prompts that are new."""
        free = self.capacity - len(self.answers)
        if not waiting or (self.answers and free < max(1, self.capacity // 4)):
            return []
        entering: list[Answer] = []
        fresh: list[int] = []
        for answer in list(waiting)[:free]:
            if answer.request not in self.slot_of:
                taken = set(self.slot_of.values())
                slot = next((s for s in range(self.prompts) if s not in taken), None)
                if slot is None:
                    break
                self.slot_of[answer.request] = slot
                fresh.append(answer.request)
            entering.append(waiting.popleft())
        self._prefill(fresh)
        self.answers += entering
        self._members = None
        return list(range(len(self.answers) - len(entering), len(self.answers)))

    def _prefill(self, requests: list[int]) -> None:
        for chunk in _chunks_by_tokens(requests, lambda r: len(self.requests[r].prompt_ids), PREFILL_TOKENS):
            row = pack_row([Bundle(prompt_ids=self.requests[r].prompt_ids, answers=[]) for r in chunk])
            row = row.to(self.policy.device)
            plan = Prefill(row, self.cache, [self.slot_of[r] for r in chunk], self.policy.cpu)
            hidden_ND = self.policy.hidden(row.token_ids_N, row.position_N, plan)
            last_P = row.prompt_index_PL.gather(1, row.prompt_length_P[:, None] - 1)[:, 0]
            for request, last in zip(chunk, last_P.tolist(), strict=True):
                self.last_hidden[request] = hidden_ND[last]

    def first_logits(self, rows: Sequence[int]) -> Tensor:
        """Logits [B, V] of the first token of answers that have just entered."""
        hidden = torch.stack([self.last_hidden[self.answers[row].request] for row in rows])
        return self.policy.head.logits(hidden, widened=False)

    def next_logits(self) -> Tensor:
        """Feed every answer's newest token; logits [B, V] of the next."""
        device = self.policy.device
        length = [len(answer.tokens) - 1 for answer in self.answers]
        self.cache.reserve(max(length) + 1)
        slots = [self.slot_of[answer.request] for answer in self.answers]
        prompt_length = [len(self.requests[answer.request].prompt_ids) for answer in self.answers]
        if self._members is None:
            by_slot = dict(zip(slots, prompt_length, strict=True))
            lengths = [by_slot.get(slot, 1) for slot in range(max(slots) + 1)]
            self._members = Membership.of(slots, lengths, device)
        length_B = torch.tensor(length, device=device)
        position_B = torch.tensor(prompt_length, device=device) + length_B
        token_B = torch.tensor([answer.tokens[-1] for answer in self.answers], device=device)
        plan = Decode(self.cache, self._members, length_B, self.policy.cpu)
        return self.policy.head.logits(self.policy.hidden(token_B, position_B, plan), widened=False)

    def remove(self, rows: list[int]) -> None:
        """Take finished answers out; the last rows move into the gaps."""
        if not rows:
            return
        gone = set(rows)
        kept = len(self.answers) - len(gone)
        holes = sorted(row for row in gone if row < kept)
        movers = [row for row in range(kept, len(self.answers)) if row not in gone]
        if movers:
            longest = max(len(self.answers[row].tokens) for row in movers)
            self.cache.move_answers(movers, holes, longest)
        for hole, mover in zip(holes, movers, strict=True):
            self.answers[hole] = self.answers[mover]
        del self.answers[kept:]
        alive = {answer.request for answer in self.answers}
        for request in [r for r in self.slot_of if r not in alive]:
            del self.slot_of[request]
            del self.last_hidden[request]
        self._members = None


def _chunks_by_tokens(items: list[int], length: Callable[[int], int], budget: int) -> list[list[int]]:
    chunks: list[list[int]] = []
    total = 0
    for item in items:
        if not chunks or total + length(item) > budget:
            chunks.append([])
            total = 0
        chunks[-1].append(item)
        total += length(item)
    return chunks
