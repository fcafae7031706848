"""One update's rankings as tables beside the batch of their answers, and their losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.models import ScoreHead, TokenScores
from ventaja.training.batch import Batch, Row, Sample
from ventaja.training.objective import Stats
from ventaja.training.ranked import RankedPrompt

PRIOR = 9.0
"""Of a rater's reliability η: Beta(10, 1), so that its log-density is 9 log η."""


@dataclass(frozen=True, kw_only=True)
class RankedBatch:
    """P prompts with S answers, and R rankings of at most K answers and a line."""

    batch: Batch
    place_RK: Tensor
    """The sequence of each ranked item; the last column is the line's, and S there."""
    tier_RK: Tensor
    """Its tier; −1 where there is no item."""
    prompt_R: Tensor
    weight_R: Tensor
    rater_R: Tensor
    """The place of each ranking's rater in the list of all raters."""
    number_R: Tensor
    """The place of each ranking among all rankings of the run."""

    @property
    def answers(self) -> int:
        return self.batch.sequences

    def rows(self, max_tokens: int, *, keep_last: bool) -> list[Row]:
        """Rows in which every ranking finds all of its answers."""
        return self.batch.rows(
            range(self.batch.sequences), max_tokens=max_tokens, keep_last=keep_last, whole_groups=True
        )

    def weights_ST(self) -> Tensor:
        """How each target counts, so that the loss is the weighted mean over rankings."""
        return self.batch.is_action_ST / self.weight_R.sum()


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """Where rankings and raters stand in the whole run."""

    first: dict[int, int]
    """Of each prompt (by its place), the number of its first ranking."""
    raters: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Sequence[RankedPrompt]) -> Numbering:
        counts = np.cumsum([0, *(len(p.rankings) for p in prompts)])
        raters = sorted({ranking.rater for p in prompts for ranking in p.rankings})
        return cls(first={i: int(counts[i]) for i in range(len(prompts))}, raters=tuple(raters))


def ranked_batch(
    prompts: Sequence[RankedPrompt],
    *,
    numbering: Numbering | None = None,
    chosen: Sequence[int] | None = None,
    every_token: bool = False,
    line: bool = True,
) -> RankedBatch:
    """The prompts at the places `chosen` (all, if None) with their rankings; without lines unless `line`.

    Targets are the answers' last tokens, beside which a score is read, or with `every_token` all of them.
    """
    chosen = range(len(prompts)) if chosen is None else chosen
    numbering = numbering or Numbering.of(prompts)
    samples: list[Sample] = []
    starts: list[int] = []
    for p, number in enumerate(chosen):
        starts.append(len(samples))
        for index, ids in enumerate(prompts[number].answer_ids):
            is_action = (True,) * len(ids) if every_token else (False,) * (len(ids) - 1) + (True,)
            samples.append(
                Sample(
                    group=p,
                    index=index,
                    prompt_ids=prompts[number].prompt_ids,
                    token_ids=ids,
                    is_action=is_action,
                )
            )
    placed = [
        (p, numbering.first[number] + r, ranking)
        for p, number in enumerate(chosen)
        for r, ranking in enumerate(prompts[number].rankings)
    ]
    most = max(len(ranking.answers) for _, _, ranking in placed)
    place = torch.zeros(len(placed), most + 1, dtype=torch.long)
    tier = torch.full((len(placed), most + 1), -1, dtype=torch.long)
    for r, (p, _, ranking) in enumerate(placed):
        count = len(ranking.answers)
        place[r, :count] = starts[p] + torch.tensor(ranking.answers)
        tier[r, :count] = torch.tensor(ranking.tiers)
        if line and ranking.line is not None:
            tier[r, most] = ranking.line
    place[:, most] = len(samples)
    raters = {rater: i for i, rater in enumerate(numbering.raters)}
    return RankedBatch(
        batch=Batch.of_samples(samples),
        place_RK=place,
        tier_RK=tier,
        prompt_R=torch.tensor([p for p, _, _ in placed]),
        weight_R=torch.tensor([ranking.weight for _, _, ranking in placed]),
        rater_R=torch.tensor([raters.get(ranking.rater, 0) for _, _, ranking in placed]),
        number_R=torch.tensor([number for _, number, _ in placed]),
    )


@dataclass(frozen=True)
class OfRow:
    """The rankings whose answers stand in a row, and where there."""

    ranking_r: Tensor
    place_rK: Tensor
    """Which of the row's A answers each item is; A for the line."""
    target_r: Tensor
    """The target at which each ranking's loss is counted: the first of its prompt's first answer."""

    @classmethod
    def of(cls, ranked: RankedBatch, row: Row) -> OfRow:
        where_S = torch.full((ranked.answers + 1,), -1)
        where_S[row.sequence_A] = torch.arange(len(row.sequence_A))
        where_S[ranked.answers] = len(row.sequence_A)
        ranking_r = (where_S[ranked.place_RK[:, 0]] >= 0).nonzero()[:, 0]
        place_rK = where_S[ranked.place_RK[ranking_r]].clamp(min=0)
        answer_M = row.packed.answer_M.cpu()
        first_A = torch.searchsorted(answer_M, torch.arange(len(row.sequence_A)))
        return cls(ranking_r, place_rK, first_A[place_rK[:, 0]])

    def counted(self, loss_r: Tensor, targets: int) -> Tensor:
        """The losses at their targets [M]."""
        return loss_r.new_zeros(targets).index_add(0, self.target_r.to(loss_r.device), loss_r)


@dataclass(frozen=True)
class ScoreObjective:
    """The Plackett–Luce loss of a reward model's scores, for each ranking whose answers are in a row.

    Of an ensemble it is the mean over heads, each of which sees rankings with an emphasis of its own.
    """

    ranked: RankedBatch
    heads: ScoreHead
    margin: float = 0.0
    centring: float = 0.0
    emphasis: Callable[[Tensor, int], Tensor] | None = None
    """How much each ranking (by its number) counts for each head [R, E]; the same for all, if None."""
    rankings_of_rater: Tensor | None = None
    """How many rankings each rater made, where their reliabilities are fitted."""

    def __call__(self, row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        """Loss [M], and sums over rankings to report."""
        end_AE = scores.end_value_A
        assert end_AE is not None
        found, ranked = OfRow.of(self.ranked, row), self.ranked
        device = end_AE.device
        item_AE = torch.cat([end_AE, self.heads.line_E[None]])
        score_rKE = item_AE[found.place_rK.to(device)]
        R, K, E = score_rKE.shape
        tier_rK = ranked.tier_RK[found.ranking_r].to(device)
        loss_rE = self._loss(score_rKE.permute(2, 0, 1).reshape(E * R, K), tier_rK.repeat(E, 1), found, E)
        if self.centring:
            centre = F.centring_loss(
                score_rKE[:, :-1].permute(2, 0, 1).reshape(E * R, K - 1), (tier_rK[:, :-1] >= 0).repeat(E, 1)
            )
            loss_rE = loss_rE + self.centring * centre.reshape(E, R).T
        if self.emphasis is not None:
            loss_rE = loss_rE * self.emphasis(ranked.number_R[found.ranking_r], E).to(loss_rE)
        weight_r = ranked.weight_R[found.ranking_r].to(device)
        loss_r = weight_r * loss_rE.mean(dim=1)
        right, pairs = right_pairs(score_rKE.detach().mean(dim=2)[:, :-1], tier_rK[:, :-1])
        stats = {
            "tokens": weight_r.sum(),
            "accuracy": (weight_r * right / pairs.clamp(min=1)).sum(),
        }
        return found.counted(loss_r, len(row.packed.target_M)), stats

    def _loss(self, score: Tensor, tier: Tensor, found: OfRow, heads: int) -> Tensor:
        """Loss [R, E] of every ranking under every head."""
        rankings = len(found.ranking_r)
        margin = score.new_full((len(score),), self.margin) if self.margin else None
        if self.rankings_of_rater is None:
            return F.partial_order_loss(score, tier, margin_B=margin).reshape(heads, rankings).T
        rater_r = self.ranked.rater_R[found.ranking_r]
        logit_r = self.heads.reliability_R[rater_r.to(score.device)]
        loss = F.crowd_ranking_loss(score, tier, reliability_logit_B=logit_r.repeat(heads), margin_B=margin)
        prior_r = PRIOR / self.rankings_of_rater[rater_r].to(score)  # once for each rater in a pass
        penalty_r = -prior_r * torch.nn.functional.logsigmoid(logit_r)
        return loss.reshape(heads, rankings).T + penalty_r[:, None]


@dataclass(frozen=True)
class DpoObjective:
    """The Plackett–Luce loss of answers' implicit rewards, for each ranking whose answers are in a row."""

    ranked: RankedBatch
    ref_logprob_S: Tensor
    """Log-prob of each answer under the reference."""
    beta: float
    margin: float = 0.0

    def __call__(self, row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        """Loss [M], and sums over rankings to report."""
        logprob_M = scores.logprob_M
        device = logprob_M.device
        answers = len(row.sequence_A)
        logprob_A = logprob_M.new_zeros(answers).index_add(0, row.packed.answer_M.to(device), logprob_M)
        reward_A = F.dpo_reward(logprob_A, self.ref_logprob_S[row.sequence_A].to(logprob_A), beta=self.beta)
        found, ranked = OfRow.of(self.ranked, row), self.ranked
        score_rK = torch.cat([reward_A, reward_A.new_zeros(1)])[found.place_rK.to(device)]
        tier_rK = ranked.tier_RK[found.ranking_r].to(device)
        margin = score_rK.new_full((len(score_rK),), self.margin) if self.margin else None
        weight_r = ranked.weight_R[found.ranking_r].to(device)
        loss_r = weight_r * F.partial_order_loss(score_rK, tier_rK, margin_B=margin)
        right, pairs = right_pairs(score_rK.detach()[:, :-1], tier_rK[:, :-1])
        stats = {
            "tokens": weight_r.sum(),
            "accuracy": (weight_r * right / pairs.clamp(min=1)).sum(),
        }
        return found.counted(loss_r, len(row.packed.target_M)), stats


def right_pairs(score_RK: Tensor, tier_RK: Tensor) -> tuple[Tensor, Tensor]:
    """How many pairs of answers each ranking tells apart that the scores tell apart the same way, and how many it does in
    all; equal scores are half right."""
    is_there = tier_RK >= 0
    is_pair = (tier_RK[:, :, None] < tier_RK[:, None, :]) & is_there[:, :, None] & is_there[:, None, :]
    difference = score_RK[:, :, None] - score_RK[:, None, :]
    right = ((difference > 0) + 0.5 * (difference == 0)) * is_pair
    return right.sum(dim=(1, 2)), is_pair.sum(dim=(1, 2))


def bootstrap(seed: int) -> Callable[[Tensor, int], Tensor]:
    """The emphasis of the Bayesian bootstrap (Rubin, 1981): exponential weights of mean 1, found again from a ranking's
    number."""

    def emphasis(number_R: Tensor, heads: int) -> Tensor:
        drawn = [np.random.default_rng([seed, 0xB5, int(n)]).exponential(size=heads) for n in number_R]
        return torch.from_numpy(np.array(drawn).reshape(len(number_R), heads))

    return emphasis
