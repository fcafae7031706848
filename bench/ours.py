"""Ventaja on the workload, beside transformers' own way of doing the same, in one process and alternating."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import ventaja  # before torch, as a command has it: torch reads how long its threads are to wait  # isort: skip
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from workload import ANSWERS, LEARNING_RATE, MAX_TOKENS, PROMPTS, Timer, emit, questions, spread_reward

from ventaja.models import Bundle, Policy, load_policy, pack_row, render_prompt, resolve_precision
from ventaja.models.catalog import packaged_model
from ventaja.models.layout import PackedRow
from ventaja.models.memory import keep_freed_memory
from ventaja.records import Prompt, Request
from ventaja.rollouts import LocalEngine, Sampling

GRPO = {"name": "grpo", "kl": "none", "group_size": ANSWERS}
PPO = {"name": "ppo", "kl": "none", "group_size": ANSWERS, "epochs": 1}

ASKED = Prompt(id="bench", content="")
"""Of requests whose tokens say all that matters."""


def prompt_ids(policy: Policy) -> list[tuple[int, ...]]:
    prompts = [Prompt(id=str(i), content=tuple(q)) for i, q in enumerate(questions())]  # type: ignore[arg-type]
    return [render_prompt(policy.tokenizer, prompt) for prompt in prompts]


def transformers_generate(policy: Policy, ids: Sequence[tuple[int, ...]]) -> tuple[Callable[[], None], int]:
    """transformers' way of sampling the workload, each answer of full length, and how many tokens that is."""
    dtype = policy.head.linear.weight.dtype
    model: Any = AutoModelForCausalLM.from_pretrained(packaged_model("smollm2-135m"), dtype=dtype)
    tokenizer: Any = policy.tokenizer
    tokenizer.padding_side = "left"
    texts = [tokenizer.decode(i) for i in ids for _ in range(ANSWERS)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)

    def generate() -> None:
        with torch.inference_mode():
            model.generate(
                **inputs, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                min_new_tokens=MAX_TOKENS, max_new_tokens=MAX_TOKENS,
            )  # fmt: skip

    return generate, PROMPTS * ANSWERS * MAX_TOKENS


def sampling(repeats: int) -> None:
    """Tokens per second of the local engine and of transformers' generate: 64 answers of exactly 32 tokens."""
    policy = load_policy("smollm2-135m")
    policy.eos_ids = frozenset()  # every answer has its full length, so that both do the same work
    engine = LocalEngine(policy)
    ids = prompt_ids(policy)
    dtype = policy.head.linear.weight.dtype
    generate, tokens = transformers_generate(policy, ids)
    ours, theirs = [], []
    for repeat in range(repeats + 1):
        requests = [
            Request(prompt=ASKED, prompt_ids=i, count=ANSWERS, seed=(repeat, p)) for p, i in enumerate(ids)
        ]
        with Timer() as timer:
            engine.load(policy, version=repeat)  # new weights each time, as in a run
            engine.sample(requests, Sampling(max_tokens=MAX_TOKENS))
        ours.append(tokens / timer.seconds)
        with Timer() as timer:
            generate()
        theirs.append(tokens / timer.seconds)
    emit(ours=ours[1:], theirs=theirs[1:], precision=str(dtype).removeprefix("torch."), prompt_ids=ids)


def sample_bundles(policy: Policy) -> list[Bundle]:
    """The workload's prompts with answers of about 22 tokens on average, sampled once."""
    engine = LocalEngine(policy)
    requests = [
        Request(prompt=ASKED, prompt_ids=i, count=ANSWERS, seed=(0, p))
        for p, i in enumerate(prompt_ids(policy))
    ]
    groups = engine.sample(requests, Sampling(max_tokens=MAX_TOKENS))
    engine.release()
    return [
        Bundle(prompt_ids=r.prompt_ids, answers=[c.token_ids for c in group])
        for r, group in zip(requests, groups, strict=True)
    ]


def training(repeats: int) -> None:
    """Forward and backward of 64 answers: packed, packed with nothing shared by prompts, and padded."""
    policy = load_policy("smollm2-135m")
    bundles = sample_bundles(policy)
    row, apart_row = pack_row(bundles), pack_row(bundles, worthwhile=10**9)

    def one_pass(score: Any, row: PackedRow) -> tuple[float, float]:
        with Timer() as timer:
            loss = score(row).logprob_M.mean()
            loss.backward()
        policy.module.zero_grad()
        return timer.seconds, float(loss)

    packed, apart, padded = [], [], []
    for _ in range(repeats + 1):
        packed.append(one_pass(policy.score, row))
        apart.append(one_pass(policy.score, apart_row))
        padded.append(one_pass(policy.score_padded, row))
    head = policy.head.linear.weight.numel()
    body = sum(p.numel() for p in policy.causal_lm.parameters()) - head
    emit(
        packed=[s for s, _ in packed[1:]],
        apart=[s for s, _ in apart[1:]],
        padded=[s for s, _ in padded[1:]],
        losses=[packed[0][1], padded[0][1]],
        tokens=row.tokens,
        prefix=row.prefix,
        targets=row.target_M.numel(),
        flop=6 * (body * row.tokens + head * row.target_M.numel()),
        peak=matrix_peak(policy.head.linear.weight.dtype),
    )


def matrix_peak(dtype: torch.dtype) -> float:
    """Matrix products' FLOP/s in this precision, the best of some shapes that the model has or could have."""
    best = 0.0
    for m, k, n in ((2048, 576, 1536), (2048, 1536, 2048), (4096, 4096, 4096)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        seconds = []
        for _ in range(12):
            with Timer() as timer:
                a @ b
            seconds.append(timer.seconds)
        best = max(best, 2 * m * k * n / median(seconds[2:]))
    return best


def whole_rounds(
    rounds: int,
    *,
    on_round: Callable[[ventaja.Run, int], None] | None = None,
    reward: Callable[..., list[float]] | None = None,
    algorithm: dict[str, Any] = GRPO,
) -> dict[str, list[float]]:
    """Whole rounds, as `ventaja.rl` runs them: the columns of their metrics. The first round warms up."""
    with tempfile.TemporaryDirectory() as folder:
        run = ventaja.rl(
            model="smollm2-135m",
            prompts=questions(),
            reward=reward or (lambda completion_ids, **_: spread_reward(completion_ids)),
            algorithm=algorithm,
            rounds=rounds,
            folder=Path(folder) / "run",
            sampling={"max_tokens": MAX_TOKENS},
            optimiser={"learning_rate": LEARNING_RATE},
            run={"completions_per_round": PROMPTS * ANSWERS, "trackers": []},
            on_round=on_round,
        )
        names = [f"seconds/{part}" for part in ("sampling", "judging", "training")]
        return {n: run.column(n) for n in (*names, "completions/mean_length", "frac_reward_zero_std")}


def seconds(columns: dict[str, list[float]]) -> list[float]:
    """Of each round."""
    return [sum(s) for s in zip(*(c for n, c in columns.items() if n.startswith("seconds/")), strict=True)]


def rounds(repeats: int, algorithm_skip: bool) -> None:
    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        scores = spread_reward(completion_ids)
        if algorithm_skip:  # half of the groups have equal rewards, as in a run that goes well
            scores = [0.0 if (i // ANSWERS) % 2 else score for i, score in enumerate(scores)]
        return scores

    columns = whole_rounds(repeats + 1, reward=reward)
    parts = {n.split("/")[1]: c[1:] for n, c in columns.items() if n.startswith("seconds/")}
    emit(seconds=seconds(columns)[1:], parts=parts, skipped=columns["frac_reward_zero_std"][1:])


def parts(repeats: int) -> None:
    """Rounds with everything on, and between any two of them one with a part of `ventaja.cpu` off."""
    from parts import PARTS

    order = ["warm-up", "all"]
    order += [name for part in list(PARTS) * repeats for name in (part, "all")]
    block = ExitStack()

    def switch(run: ventaja.Run, number: int) -> None:
        block.close()
        if number < len(order) and order[number] in PARTS:
            block.enter_context(PARTS[order[number]]())

    columns = whole_rounds(len(order), on_round=switch)
    cost = [s / n for s, n in zip(seconds(columns), columns["completions/mean_length"], strict=True)]
    ratios = {
        part: [
            2
            * cost[i]
            / (cost[i - 1] + cost[i + 1])  # answers' lengths differ from round to round: per token
            for i, name in enumerate(order)
            if name == part
        ]
        for part in PARTS
    }
    emit(ratios=ratios, all=[s for s, name in zip(seconds(columns), order, strict=True) if name == "all"])


def critic(repeats: int) -> None:
    """Rounds of PPO and of GRPO with the same prompts, as many answers and as many optimiser steps: seconds per 1,000 tokens,
    by the steps in a round."""
    found: dict[str, dict[str, list[float]]] = {}
    for steps in (1, 4):
        for _ in range(2):  # alternating
            for name, algorithm in (("grpo", GRPO), ("ppo", PPO)):
                columns = whole_rounds(repeats + 1, algorithm={**algorithm, "minibatches": steps})
                tokens = [PROMPTS * ANSWERS * length for length in columns["completions/mean_length"]]
                cost = [1000 * s / t for s, t in zip(seconds(columns), tokens, strict=True)][1:]
                found.setdefault(str(steps), {}).setdefault(name, []).extend(cost)
    emit(**{f"steps_{steps}": by_name for steps, by_name in found.items()})


def neighbour(repeats: int) -> None:
    """Rounds and transformers' generate: alone, and beside one other busy process."""
    busy: list[subprocess.Popen[bytes]] = []

    def come() -> None:
        busy.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))

    def go() -> None:
        while busy:
            busy.pop().kill()

    def on_round(run: ventaja.Run, number: int) -> None:
        if number == repeats + 1:
            come()

    try:
        columns = whole_rounds(2 * repeats + 1, on_round=on_round)
    finally:
        go()
    lengths, sampled = columns["completions/mean_length"], columns["seconds/sampling"]
    speed = [PROMPTS * ANSWERS * n / s for n, s in zip(lengths, sampled, strict=True)]
    whole, split = seconds(columns), repeats + 1
    policy = load_policy("smollm2-135m")
    generate, tokens = transformers_generate(policy, prompt_ids(policy))
    theirs: dict[str, list[float]] = {"alone": [], "beside": []}
    generate()
    for name, values in theirs.items():
        if name == "beside":
            come()
        try:
            for _ in range(2):
                with Timer() as timer:
                    generate()
                values.append(tokens / timer.seconds)
        finally:
            go()
    emit(
        rounds={"alone": whole[1:split], "beside": whole[split:]},
        sampling={"alone": speed[1:split], "beside": speed[split:]},
        theirs=theirs,
    )


def same_loss(samples: Path) -> None:
    """Our loss on the very samples of the peer's first loss, with the same weights."""
    seen = load_file(samples)
    policy = load_policy("smollm2-135m")
    loss = 0.0
    sequences = zip(
        *(seen[n] for n in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")), strict=True
    )
    count = len(seen["prompt_ids"])
    with torch.no_grad():
        for (prompt, prompt_mask, answer, answer_mask), advantage in zip(
            sequences, seen["advantages"], strict=True
        ):
            row = pack_row(
                [
                    Bundle(
                        prompt_ids=prompt[prompt_mask.bool()].tolist(),
                        answers=[answer[answer_mask.bool()].tolist()],
                    )
                ]
            )
            logprob_M = policy.score(row).logprob_M
            ratio = (logprob_M - logprob_M.detach()).exp()
            loss -= float((ratio * advantage).mean()) / count
    emit(ours=loss, theirs=float(seen["loss"][0]))


def growth() -> None:
    """Tokens per second over answers per prompt, prompt length and answer length, with a small random Llama."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(packaged_model("smollm2-135m"))
    torch.manual_seed(0)
    dtype = resolve_precision("auto", torch.device("cpu"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    policy = Policy(LlamaForCausalLM(config).to(dtype), tokenizer, name="small")
    policy.eos_ids = frozenset()
    engine = LocalEngine(policy)
    points = [("answers per prompt", 64, g, 32) for g in (4, 16, 64)]
    points += [("prompt length", length, 16, 32) for length in (64, 512, 2048)]
    points += [("answer length", 64, 16, length) for length in (32, 256, 1024)]
    results = []
    for axis, prompt, answers, length in points:
        generator = torch.Generator().manual_seed(1)
        ids = [
            torch.randint(3, 40000, (prompt,), generator=generator).tolist()
            for _ in range(max(1, 64 // answers))
        ]
        requests = [
            Request(prompt=ASKED, prompt_ids=tuple(i), count=answers, seed=(p,)) for p, i in enumerate(ids)
        ]
        sampled, trained = [], []
        for _ in range(3):
            with Timer() as timer:
                groups = engine.sample(requests, Sampling(max_tokens=length))
            sampled.append(len(ids) * answers * length / timer.seconds)
            with Timer() as timer:
                for request, group in zip(requests, groups, strict=True):
                    row = pack_row(
                        [Bundle(prompt_ids=request.prompt_ids, answers=[c.token_ids for c in group])]
                    )
                    policy.score(row).logprob_M.mean().backward()
            trained.append(len(ids) * (prompt + answers * length) / timer.seconds)
        results.append([axis, prompt, answers, length, median(sampled), median(trained)])
    emit(points=results)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "what",
        choices=[
            "sampling",
            "training",
            "round",
            "round-skipping",
            "same-loss",
            "growth",
            "parts",
            "neighbour",
            "critic",
        ],
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    Console(stderr=True).print(f"ventaja: {arguments.what}")
    if arguments.what == "same-loss":
        same_loss(arguments.samples)
    elif arguments.what == "growth":
        growth()
    elif arguments.what.startswith("round"):
        rounds(arguments.repeats, arguments.what == "round-skipping")
    else:
        what = {
            "sampling": sampling,
            "training": training,
            "parts": parts,
            "neighbour": neighbour,
            "critic": critic,
        }
        what[arguments.what](arguments.repeats)


if __name__ == "__main__":
    main()
