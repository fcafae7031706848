"""How often a model is right on problems that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from ventaja.environments import Environment, SingleTurn, default_rewards, load_reward
from ventaja.environments import Reward as RewardSpec
from ventaja.errors import RewardError
from ventaja.models import load_policy
from ventaja.records import Group, Prompt, StopReason, write_groups
from ventaja.rollouts import Engine, LocalEngine, Sampling, sample_and_judge
from ventaja.training.config import GENERATED, EvaluationConfig, MixedSourceConfig, RewardConfig
from ventaja.training.data import training_prompts
from ventaja.training.prompts import render_all

FULL_MARKS = 1.0
"""An answer is right if its reward reaches this."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `ventaja eval` measures. Accuracies are shares of answers with full marks (a reward of 1)."""

    problems: int
    accuracy_sampled: float
    accuracy_greedy: float
    pass_at: dict[int, float]
    """pass@k: the chance that at least one of k sampled answers is right."""
    mean_reward: float
    """Of the sampled answers."""
    truncated_fraction: float
    """Sampled answers that were cut off by max_tokens."""
    seconds: float


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of pass@k from n samples of which c are right:  1 − C(n−c, k) / C(n, k).

    Codex (arXiv:2107.03374), eq. 1.
    """
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def load_rewards(config: RewardConfig, source: str | tuple[MixedSourceConfig, ...]) -> tuple[RewardSpec, ...]:
    """The configured reward functions, or the task's own verifier if none is."""
    if not config.functions:
        names = [source] if isinstance(source, str) else [part.source for part in source]
        # All of them must be tasks: the first that is none says what is missing.
        return default_rewards(next((name for name in names if not name.startswith(GENERATED)), names[0]))
    return tuple(load_reward(f.function, options=f.options, weight=f.weight) for f in config.functions)


def evaluate(config: EvaluationConfig) -> Evaluation:
    """Load the model and the problems, and measure."""
    rewards = load_rewards(config.reward, config.data.source)
    prompts = training_prompts(config.data)
    environment = SingleTurn(prompts=prompts, rewards=rewards, timeout=config.reward.timeout)
    policy = load_policy(
        config.model.name,
        device=config.model.device,
        precision=config.model.precision,
        trust_remote_code=config.model.trust_remote_code,
        chat_template=config.model.chat_template,
    )
    prompts, ids, _ = render_all(policy, environment.prompts, max_prompt_tokens=config.data.max_prompt_tokens)
    result, sampled = measure(
        LocalEngine(policy, max_batch=config.max_batch),
        environment,
        prompts,
        ids,
        config.sampling,
        config.reward,
        samples=config.samples,
        seed=config.seed,
    )
    if config.output is not None:
        write_groups(config.output, sampled)
    return result


def measure(
    engine: Engine,
    environment: Environment,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[tuple[int, ...]],
    sampling: Sampling,
    judging: RewardConfig,
    *,
    samples: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Evaluation, list[Group]]:
    """Sampled and greedy accuracy on the given problems, and the judged sampled answers.

    Raises Interrupted once `should_stop()` is True, RewardError if no answer could be judged or too many judgements
    are broken.
    """
    start = time.perf_counter()
    seeds = [(seed, 0xE7A1, p) for p in range(len(prompts))]
    greedy = sampling.model_copy(update={"temperature": 0.0})
    judged = {
        kind: sample_and_judge(
            engine, environment, prompts, prompt_ids, how,
            size=count, seeds=seeds, should_stop=should_stop,
            overlap=judging.overlap, max_broken_fraction=judging.max_broken_fraction,
        )
        for kind, how, count in (("sampled", sampling, samples), ("greedy", greedy, 1))
    }  # fmt: skip
    rewards = [[j.reward for j in g.judgements if j.is_valid] for g in judged["sampled"]]
    right = [sum(r >= FULL_MARKS for r in row) for row in rewards]
    most = max((len(row) for row in rewards), default=0)  # broken answers do not count
    counts = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= most]
    greedy_rewards = [j.reward for g in judged["greedy"] for j in g.judgements if j.is_valid]
    if not any(rewards) or not greedy_rewards:
        raise RewardError(
            f"none of the answers to the {len(prompts)} problems could be judged: every reward was None or "
            "broken. Check that the problems have the columns that the reward function reads."
        )
    completions = [c for g in judged["sampled"] for c in g.completions]
    return Evaluation(
        problems=len(prompts),
        accuracy_sampled=fmean(c / len(row) for c, row in zip(right, rewards, strict=True) if row),
        accuracy_greedy=fmean(r >= FULL_MARKS for r in greedy_rewards),
        pass_at={
            k: fmean(
                pass_at_k(len(row), c, k) for c, row in zip(right, rewards, strict=True) if len(row) >= k
            )
            for k in counts
        },
        mean_reward=fmean(r for row in rewards for r in row),
        truncated_fraction=fmean(c.stop is StopReason.LENGTH for c in completions),
        seconds=time.perf_counter() - start,
    ), judged["sampled"]
