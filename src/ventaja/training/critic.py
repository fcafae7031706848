"""The critic: a value for each token, read off the policy's network or one of its own, and how it is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.errors import ConfigError, ModelError
from ventaja.models import Policy, ScoreHead, TokenScores
from ventaja.models.load import is_reward_model, resolve_model
from ventaja.models.reward import load_critic
from ventaja.training.batch import Batch, Row
from ventaja.training.config import AdamWConfig, CriticConfig, ModelConfig, OptimiserConfig
from ventaja.training.learner import Learner, Term
from ventaja.training.model import load_model
from ventaja.training.objective import Stats


@dataclass(frozen=True, kw_only=True)
class Critic:
    """Whoever gives a state its value."""

    learner: Learner
    """The policy's, with a head, or one of its own."""
    config: CriticConfig

    @property
    def shares_trunk(self) -> bool:
        """True if values come from the policy's own forward pass."""
        return self.config.model is None

    @property
    def rows_have_ends(self) -> bool:
        """True if the policy's rows need the last tokens of truncated sequences, for a value after them."""
        return self.shares_trunk and self.config.bootstrap_truncated

    def warms_up(self, number: int) -> bool:
        """True of the rounds that train it alone, on Monte-Carlo returns."""
        return number <= self.config.warmup_rounds

    def learns_alone(self, number: int, *, is_ready: bool) -> bool:
        """True if the policy may have to stay in this round: what the critic learns is then no guess of its own, which its
        values would explain too well. `is_ready` says that it was good in an earlier round."""
        return self.warms_up(number) or (self.config.min_explained_variance is not None and not is_ready)

    def is_good(self, sampled: Mapping[str, float]) -> bool:
        """True if its values explain as much of a round's returns as is asked of it before the policy moves."""
        limit = self.config.min_explained_variance
        return limit is None or sampled.get("value/explained_variance", -math.inf) > limit


def value_term(config: CriticConfig, batch: Batch, is_action_ST: Tensor) -> Term:
    """The value loss of the sequences whose actions these are: its mean over them, whatever the policy's weights."""
    scale = config.loss_weight if config.through_trunk else 1.0
    return Term(ValueObjective(batch, config.clip), scale * F.token_mean(is_action_ST))


@dataclass(frozen=True)
class ValueObjective:
    """½ (V − target)² for each token of a row, clipped or not. Reads the columns `value` and `value_target`."""

    batch: Batch
    clip: float | None

    def __call__(self, row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        """Loss [M] of each of the row's targets, and sums to report."""
        value = scores.value_M
        assert value is not None
        target = row.pick(self.batch.columns["value_target"]).to(value)
        is_action = row.pick(self.batch.is_action_ST).to(value.device)
        stats = {"tokens": is_action.sum()}
        loss = F.value_loss(value, target)
        if self.clip is not None:
            old = row.pick(self.batch.columns["value"]).to(value)
            loss = F.clipped_value_loss(value, old, target, clip=self.clip)
            stats["value/clip_fraction"] = (((value - old).abs() > self.clip) & is_action).sum()
        stats["value/loss"] = (loss.detach() * is_action).sum()
        return loss, stats


def value_metrics(batch: Batch) -> dict[str, float]:
    """Of the values that a round's advantages were made with, before the critic has learned from it."""
    is_action = batch.is_action_ST
    if not is_action.any():
        return {}
    value, target = batch.columns["value"][is_action], batch.columns["value_target"][is_action]
    explained = float(F.explained_variance(value, target))
    metrics = {
        "value/mean": float(value.mean()),
        "value/min": float(value.min()),
        "value/max": float(value.max()),
    }
    return metrics if math.isnan(explained) else metrics | {"value/explained_variance": explained}


def make_critic(
    config: CriticConfig,
    policy: Learner,
    model: ModelConfig,
    rows: OptimiserConfig,
    *,
    folder: str | None,
    compute: torch.dtype,
    note: Callable[[str], None],
) -> Critic:
    """The critic as it begins: a head on the policy, or a learner of its own from `config.model` or the checkpoint `folder`.

    Raises ModelError if its model cannot be loaded, and ConfigError if it reads other tokens than the policy's.
    """
    head = AdamWConfig.model_validate(
        config.optimiser.model_dump() | {"learning_rate": config.head_learning_rate}
    )
    learner = policy
    if config.model is not None:
        own = model.model_copy(update={"name": config.model, "lora": None, "chat_template": None})
        judge = None
        try:
            if folder is None and is_reward_model(resolve_model(config.model)):
                network, judge = load_critic(
                    config.model, device=own.device, trust_remote_code=own.trust_remote_code, cpu=own.cpu
                )
            else:
                network = load_model(own, folder, precision="float32")
        except ModelError as error:
            raise ModelError(f"critic.model: {error}") from error
        check_same_tokens(network, policy.network)
        optimiser = OptimiserConfig.model_validate(
            config.optimiser.model_dump()
            | {"max_tokens": rows.max_tokens, "gradient_checkpointing": rows.gradient_checkpointing}
        )
        total = policy.optimiser.total_updates
        learner = Learner(network, optimiser, compute=compute, total_updates=total, note=note)
        if judge is not None:
            _take_over(learner, judge, head, initial_value=config.initial_value)
            return Critic(learner=learner, config=config)
    learner.learn_values(head, initial_value=config.initial_value)
    return Critic(learner=learner, config=config)


def _take_over(learner: Learner, judge: ScoreHead, config: AdamWConfig, *, initial_value: float) -> None:
    """Begin with the values that a reward model gives: its score less the line, from every token on.

    A value head brings each hidden state to one size and a score head does not, so the values are near its rewards and not
    equal to them; where hidden states have all one size, as after a norm without weights, they are.
    """
    head = learner.network.add_value_head(initial_value=initial_value)
    head.begin_from(
        judge.folded().mean(dim=0),
        size=judge.size,
        constant=initial_value - float(judge.line_E.detach().mean()),
    )
    learner.learn_head(head, config)


def check_room(critic: Policy, policy: Policy, *, longest: int) -> None:
    """Raises ConfigError if the critic's context ends before what the policy writes does: `longest` tokens of prompt and
    answer, or as many as the policy's own context has."""
    needed = min(longest, policy.context_length or longest)
    if critic.context_length is not None and critic.context_length < needed:
        raise ConfigError(
            f"critic.model: {critic.name} takes {critic.context_length} tokens, prompt included, and answers here may end "
            f"only at {needed}: it has no value for what comes later. Lower sampling.max_tokens, leave out long prompts "
            "(data.max_prompt_tokens), or take a model with a longer context."
        )


def check_same_tokens(critic: Policy, policy: Policy) -> None:
    """Raises ConfigError unless every token means the same to both, and the critic has weights for each."""
    theirs, ours = critic.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    if theirs == ours:
        embeddings: Any = critic.causal_lm.get_input_embeddings()
        tokens, known = max(theirs.values()) + 1, len(embeddings.weight)
        if known < tokens:
            raise ConfigError(
                f"critic.model: {critic.name} has weights for {known} tokens, but its tokenizer has {tokens}, so it could "
                "not read all that is written. Take a model that was saved with this tokenizer, or leave critic.model out."
            )
        return
    differing = sum(theirs.get(word) != number for word, number in ours.items())
    raise ConfigError(
        f"critic.model: {critic.name} has another tokenizer than {policy.name} ({differing} of its {len(ours)} tokens have "
        "another number or none), so it would read other words than were written. Take a model of the same family, or "
        "leave critic.model out: values are then read from the policy itself."
    )
