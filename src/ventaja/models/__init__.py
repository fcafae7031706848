"""A Hugging Face causal LM as a policy: loading, chat rendering, packed rows and their attention."""

from ventaja.models.chat import TokenizedExample, render_example, render_prompt
from ventaja.models.judged import JudgedTokens, judged_tokens
from ventaja.models.layout import Bundle, PackedRow, pack_row
from ventaja.models.load import load_policy, resolve_device, resolve_precision
from ventaja.models.policy import Policy, TokenScores, Wanted
from ventaja.models.reward import RewardFacts, RewardModel, load_reward_model
from ventaja.models.score import ScoreHead
from ventaja.models.value import ValueHead

__all__ = [
    "Bundle",
    "JudgedTokens",
    "PackedRow",
    "Policy",
    "RewardFacts",
    "RewardModel",
    "ScoreHead",
    "TokenScores",
    "TokenizedExample",
    "ValueHead",
    "Wanted",
    "judged_tokens",
    "load_policy",
    "load_reward_model",
    "pack_row",
    "render_example",
    "render_prompt",
    "resolve_device",
    "resolve_precision",
]
