"""vLLM's CPU build on the sampling workload, in an environment of its own: tokens per second."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from workload import ANSWERS, MAX_TOKENS, PROMPTS, emit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path, help="token ids of the prompts, as JSON")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(arguments.prompts.read_text())]
    llm = LLM(model=str(arguments.model), dtype=arguments.dtype, max_model_len=256, seed=0)
    how = SamplingParams(
        n=ANSWERS, temperature=1.0, max_tokens=MAX_TOKENS, min_tokens=MAX_TOKENS, ignore_eos=True
    )
    rates = []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        outputs = llm.generate(prompts, how, use_tqdm=False)
        seconds = time.perf_counter() - start
        assert all(len(c.token_ids) == MAX_TOKENS for o in outputs for c in o.outputs)
        rates.append(PROMPTS * ANSWERS * MAX_TOKENS / seconds)
    emit(tokens_per_second=rates[1:])


if __name__ == "__main__":
    main()
