"""Direct preference optimisation on whole rankings: the policy's own log-probs are the scores, and no reward model is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ventaja.functional import dpo_reward
from ventaja.models import Policy, Wanted
from ventaja.records import Ranking
from ventaja.tracking import Run
from ventaja.tracking.words import counted
from ventaja.training.batch import Batch
from ventaja.training.learner import LOGPROBS, Learner, Term
from ventaja.training.model import load_model
from ventaja.training.on_rankings import Data, Kind, Task, train_on_rankings
from ventaja.training.ranked import RankedPrompt
from ventaja.training.ranking_batch import DpoObjective, RankedBatch, ranked_batch
from ventaja.training.ranking_config import DpoConfig
from ventaja.training.ranking_measures import Scores
from ventaja.training.session import Start


def train_dpo(
    config: DpoConfig,
    *,
    command: str = "",
    rankings: Sequence[Ranking] | None = None,
    console: Console | None = None,
) -> Run:
    """Train a policy on rankings as the config says and return the run; `rankings` stand in for the config's data.

    Raises VentajaError with what to do next.
    """
    kind = Kind(load=lambda start: start.load(config), make=partial(_make, config), tells=_tells)
    return train_on_rankings(config, kind, command=command, rankings=rankings, console=console)


def _tells(data: Data) -> list[str]:
    lines = sum(ranking.line is not None for p in data.train for ranking in p.rankings)
    alone = sum(len(ranking.answers) == 1 for p in data.train for ranking in p.rankings)
    if not lines:
        return []
    told = f"Not used: the line between acceptable and not, in {counted(lines, 'ranking')}. DPO compares answers only"
    return [
        told + (f", and {counted(alone, 'ranking')} of a single answer teach it nothing." if alone else ".")
    ]


def _make(config: DpoConfig, start: Start, learner: Learner, data: Data) -> Task:
    """With the reference's log-probs of all answers, computed once: what the run began with is not needed after that."""
    policy = learner.network
    reference: Policy | None = None  # the policy, as it is before its first update
    if policy.has_adapters and policy.adapters_are_new(start.model):
        reference = policy  # without its adapters
    elif start.checkpoint:
        is_low = start.compute == torch.bfloat16
        reference = load_model(config.model, start.model, precision="bfloat16" if is_low else "float32")
        reference.freeze()
    train, held_out = (
        answer_logprobs(learner, prompts, network=reference) for prompts in (data.train, data.held_out)
    )
    return DpoTask(config=config, learner=learner, data=data, ref_train=train, ref_held_out=held_out)


def answer_logprobs(
    learner: Learner, prompts: Sequence[RankedPrompt], *, network: Policy | None = None
) -> list[Tensor]:
    """Log-prob of every answer of each prompt, summed over its tokens; of `network` as in `Learner.score`."""
    if not prompts:
        return []
    batch = ranked_batch(prompts, every_token=True).batch
    logprob_S = _sums(learner, batch, network)
    return list(logprob_S.split([len(p.answers) for p in prompts]))


def _sums(learner: Learner, batch: Batch, network: Policy | None) -> Tensor:
    rows = lambda max_tokens: batch.rows(  # noqa: E731
        range(batch.sequences), max_tokens=max_tokens, whole_groups=True
    )
    logprob_ST = learner.score(batch, rows, network=network)
    return (logprob_ST.double() * batch.is_action_ST).sum(dim=1)


@dataclass(kw_only=True)
class DpoTask:
    """A policy as it learns from rankings."""

    config: DpoConfig
    learner: Learner
    data: Data
    ref_train: list[Tensor]
    """The reference's log-probs of each training prompt's answers."""
    ref_held_out: list[Tensor]
    keep_last: bool = False
    wanted: Wanted = LOGPROBS

    def batch(self, chosen: Sequence[int]) -> RankedBatch:
        return self.data.batch(chosen, every_token=True, line=False)

    def term(self, ranked: RankedBatch, chosen: Sequence[int]) -> Term:
        ref_logprob_S = torch.cat([self.ref_train[i] for i in chosen])
        d = self.config.dpo
        return Term(DpoObjective(ranked, ref_logprob_S, d.beta, d.margin), ranked.weights_ST())

    def scores(self) -> Scores:
        logprob_S = torch.cat(answer_logprobs(self.learner, self.data.held_out))
        reward_S = dpo_reward(logprob_S, torch.cat(self.ref_held_out), beta=self.config.dpo.beta)
        return Scores(score_SE=reward_S[:, None].numpy().astype(np.float64), line_E=None)

    def measured(self, found: dict[str, Any], scores: Scores) -> None:
        found["beta"] = self.config.dpo.beta
