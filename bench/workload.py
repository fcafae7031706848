"""What every contender does: 16 prompts of about 46 tokens, 4 answers each of at most 32, SmolLM2-135M."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

PROMPTS, ANSWERS, MAX_TOKENS = 16, 4, 32
LEARNING_RATE = 1e-6


def questions(count: int = PROMPTS) -> list[list[dict[str, str]]]:
    """Arithmetic problems as chats, the same for all."""
    return [
        [
            {
                "role": "user",
                "content": f"State the final answer to the following arithmetic problem: {a} + {b} =",
            }
        ]
        for a, b in ((17 * i % 89 + 10, 31 * i % 83 + 10) for i in range(count))
    ]


def spread_reward(completion_ids: list[list[int]]) -> list[float]:
    """A reward that differs within almost every group, so that no group is skipped."""
    return [float(sum(ids) % 101) / 101 for ids in completion_ids]


def emit(**result: Any) -> None:
    """Print one result for the process that started this one, with this process's peak memory."""
    result["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("RESULT " + json.dumps(result), flush=True)


class Timer:
    """Seconds of the block it wraps."""

    def __enter__(self) -> Timer:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
