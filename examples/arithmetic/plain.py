"""The same problems, asked in plain transformers: what somebody gets who takes the saved folder and has no Ventaja.

python examples/arithmetic/plain.py runs/demo/grpo/checkpoints/000040
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import reasoning_gym
import torch
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 64


def plain_accuracy(folder: str | Path, settings: Mapping[str, Any], *, sampled: bool) -> float:
    """The share of right answers to the problems of `settings` (the form of eval.yaml), greedy or sampled.

    The folder is loaded with no arguments.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = settings["data"]
    task = reasoning_gym.create_dataset(
        data["source"].removeprefix("reasoning_gym:"), size=data["size"], seed=data["seed"], **data["options"]
    )
    ids = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": entry["question"]}], add_generation_prompt=True, return_dict=False
        )
        for entry in task
    ]
    each = settings["samples"] if sampled else 1
    # transformers' own default would keep only the 50 likeliest words
    how: dict[str, Any] = {"do_sample": sampled, "num_return_sequences": each}
    how |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}
    torch.manual_seed(0)
    scores = []
    for problems in _of_one_length(ids, BATCH // each):
        asked = torch.tensor([ids[p] for p in problems])
        with torch.inference_mode():
            said = model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=settings["sampling"]["max_tokens"],
                **how,
            )
        texts = tokenizer.batch_decode(said[:, asked.shape[1] :], skip_special_tokens=True)
        for place, text in enumerate(texts):
            scores.append(task.score_answer(text.strip(), task[problems[place // each]]) >= 1)
    return fmean(scores)


def _of_one_length(ids: list[list[int]], most: int) -> Iterator[list[int]]:
    """Problems whose prompts are equally long, a batch at a time: no padding that could change an answer."""
    order = sorted(range(len(ids)), key=lambda p: len(ids[p]))
    for _, group in itertools.groupby(order, key=lambda p: len(ids[p])):
        alike = list(group)
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


if __name__ == "__main__":
    settings = YAML(typ="safe").load(Path(__file__).parent / "eval.yaml")
    for sampled in (True, False):
        accuracy = plain_accuracy(sys.argv[1], settings, sampled=sampled)
        print(f"{'sampled' if sampled else 'greedy'} {accuracy:.1%}")
