"""Prompts to ask, and judges of the answers."""

from ventaja.environments.data import example_from_row, load_examples, load_prompts, prompt_from_row
from ventaja.environments.environment import Ask, Environment, SingleTurn
from ventaja.environments.judging import broken_fraction, check_broken, judge
from ventaja.environments.metrics import log_metric, noted_metrics
from ventaja.environments.rewards import Reward, RewardFunction, default_rewards, load_reward
from ventaja.environments.verifiers import completion_text, exact_match, math_verify, reasoning_gym, regex

__all__ = [
    "Ask",
    "Environment",
    "Reward",
    "RewardFunction",
    "SingleTurn",
    "broken_fraction",
    "check_broken",
    "completion_text",
    "default_rewards",
    "exact_match",
    "example_from_row",
    "judge",
    "load_examples",
    "load_prompts",
    "load_reward",
    "log_metric",
    "math_verify",
    "noted_metrics",
    "prompt_from_row",
    "reasoning_gym",
    "regex",
]
