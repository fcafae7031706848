"""A reward model from rankings: Plackett–Luce on the scores of whole groups of answers, each prompt computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ventaja.models import JudgedTokens, Policy, RewardFacts, RewardModel, ScoreHead, Wanted
from ventaja.models.judged import longest
from ventaja.models.reward import begin_reward_model, resume_reward_model
from ventaja.records import Ranking
from ventaja.tracking import Run
from ventaja.tracking.words import counted
from ventaja.training.batch import Batch, Row, Sample
from ventaja.training.learner import Learner, Term
from ventaja.training.on_rankings import Data, Kind, Task, check_ensemble, train_on_rankings
from ventaja.training.ranking_batch import RankedBatch, ScoreObjective, bootstrap, ranked_batch
from ventaja.training.ranking_config import RewardModelConfig
from ventaja.training.ranking_measures import Scores
from ventaja.training.row_budget import RowBudget
from ventaja.training.session import Start

SCORES = Wanted(logprob=False, value=True)
"""What is read of a row: the scores after its answers' ends."""
FIRST_SPREAD = 0.25
"""Standard deviation of an ensemble's first scores, over its heads."""
HEADS = 0x4EAD
"""Names the random stream of an ensemble's first weights."""


def train_reward_model(
    config: RewardModelConfig,
    *,
    command: str = "",
    rankings: Sequence[Ranking] | None = None,
    console: Console | None = None,
) -> Run:
    """Train a reward model as the config says and return the run; `rankings` stand in for the config's data.

    Raises VentajaError with what to do next.
    """
    kind = Kind(load=partial(_load, config), make=partial(_make, config), tells=partial(_tells, config))
    return train_on_rankings(config, kind, command=command, rankings=rankings, console=console)


def _load(config: RewardModelConfig, start: Start) -> Policy:
    torch.manual_seed(config.run.seed)  # new adapters are drawn from torch's generator
    m = config.model
    if start.checkpoint:
        return resume_reward_model(
            start.checkpoint.path, device=m.device, trust_remote_code=m.trust_remote_code, cpu=m.cpu
        )
    return begin_reward_model(
        start.model,
        device=m.device,
        precision="float32",
        lora=m.lora,
        trust_remote_code=m.trust_remote_code,
        chat_template=m.chat_template,
        cpu=m.cpu,
    )


def _tells(config: RewardModelConfig, data: Data) -> list[str]:
    lines = sum(ranking.line is not None for p in data.train for ranking in p.rankings)
    if config.ranking.line == "ignore" or not lines:
        return ["No line between acceptable and not is learned: a reward of 0 has no meaning of its own."]
    return [
        f"A line between acceptable and not is in {counted(lines, 'ranking')}: rewards are scores less its score."
    ]


def _make(config: RewardModelConfig, start: Start, learner: Learner, data: Data) -> Task:
    network = learner.network
    assert isinstance(network, RewardModel)
    raters = len(data.numbering.raters) if config.ranking.raters == "reliability" else 0
    if network.value_head is None:
        heads = network.add_heads(config.head.ensemble, raters=raters)
        _begin(heads, learner, data, seed=config.run.seed)
    else:  # it was one already
        earlier = network.heads
        check_ensemble(earlier.heads, config.head.ensemble, network.name)
        heads = network.add_heads(earlier.heads, raters=raters)
        heads.take(earlier.folded(), earlier.line_E.detach(), size=earlier.size)
    if raters and not start.checkpoint:
        with torch.no_grad():
            heads.reliability_R.fill_(math.log(9))  # η = 0.9
    network.facts = RewardFacts(max_tokens=longest(network, config.data.max_tokens))
    learner.learn_head(heads, config.head_optimiser())
    return RewardTask(config=config, learner=learner, data=data)


@torch.no_grad()
def _begin(heads: ScoreHead, learner: Learner, data: Data, *, seed: int) -> None:
    """Measure the size of hidden states on a few prompts; the heads of an ensemble begin apart from each other."""
    few = data.batch(range(min(len(data.train), 4)))
    squares, count = 0.0, 0
    for row in learner.budget.run(partial(few.rows, keep_last=True), lambda rows: rows):
        end_AD = learner.network.states(row.packed.to(learner.network.device))[1]
        assert end_AD is not None
        squares, count = squares + float(end_AD.float().square().sum()), count + end_AD.numel()
    heads.size = math.sqrt(squares / count) or 1.0
    if heads.heads > 1:
        width = heads.module.weight.shape[1]
        drawn = np.random.default_rng([seed, HEADS]).normal(size=(heads.heads, width))
        heads.module.weight.copy_(torch.from_numpy(drawn * FIRST_SPREAD * math.sqrt(width)))


@dataclass(kw_only=True)
class RewardTask:
    """A reward model as it learns."""

    config: RewardModelConfig
    learner: Learner
    data: Data
    keep_last: bool = True
    wanted: Wanted = SCORES

    def __post_init__(self) -> None:
        counts = [0] * len(self.data.numbering.raters)
        raters = {rater: i for i, rater in enumerate(self.data.numbering.raters)}
        for p in self.data.train:
            for ranking in p.rankings:
                counts[raters[ranking.rater]] += 1
        is_fitted = self.config.ranking.raters == "reliability"
        self.rankings_of_rater = torch.tensor(counts) if is_fitted else None
        self.emphasis = bootstrap(self.config.run.seed) if self.config.head.ensemble > 1 else None

    @property
    def network(self) -> RewardModel:
        network = self.learner.network
        assert isinstance(network, RewardModel)
        return network

    @property
    def has_line(self) -> bool:
        """True if there is a line to learn from."""
        return self.config.ranking.line == "learn" and any(
            ranking.line is not None for p in self.data.train for ranking in p.rankings
        )

    def batch(self, chosen: Sequence[int]) -> RankedBatch:
        return self.data.batch(chosen, line=self.config.ranking.line == "learn")

    def term(self, ranked: RankedBatch, chosen: Sequence[int]) -> Term:
        objective = ScoreObjective(
            ranked,
            self.network.heads,
            margin=self.config.ranking.margin,
            centring=self.config.ranking.centring,
            emphasis=self.emphasis,
            rankings_of_rater=self.rankings_of_rater,
        )
        return Term(objective, ranked.weights_ST())

    def scores(self) -> Scores:
        batch = ranked_batch(self.data.held_out).batch
        score_SE = score_batch(self.network, batch, self.learner.budget)
        line = self.network.heads.line_E.detach().cpu().double().numpy() if self.has_line else None
        return Scores(score_SE=score_SE.double().numpy(), line_E=line)

    def measured(self, found: dict[str, Any], scores: Scores) -> None:
        line = 0.0 if scores.line_E is None else float(scores.line_E.mean())
        reward_S = scores.score_S - line
        std = float(reward_S.std())
        self.network.facts = RewardFacts(
            max_tokens=self.network.facts.max_tokens,
            mean=float(reward_S.mean()),
            std=std if std > 0 else 1.0,
            answers=len(reward_S),
        )
        found["line"]["score"] = None if scores.line_E is None else line
        if self.rankings_of_rater is not None:
            reliability = self.network.heads.reliability_R.detach().sigmoid().tolist()
            found["raters"] = dict(zip(self.data.numbering.raters, reliability, strict=True))


# ---------------------------------------------------------------------- scoring


@torch.no_grad()
def score_batch(network: RewardModel, batch: Batch, budget: RowBudget) -> torch.Tensor:
    """Scores [S, E] of a batch's sequences, each read after its last token."""

    def cut(max_tokens: int) -> list[Row]:
        return batch.rows(range(batch.sequences), max_tokens=max_tokens, keep_last=True)

    def compute(rows: Sequence[Row]) -> torch.Tensor:
        score_SE = torch.full((batch.sequences, network.heads.heads), torch.nan)
        for row in rows:
            with network.cpu.step("training", row.packed.tokens):
                end_AE = network.read(row.packed, SCORES).end_value_A
            assert end_AE is not None
            score_SE[row.sequence_A] = end_AE.float().cpu()
        return score_SE

    return budget.run(cut, compute)


def batch_of(read: Sequence[JudgedTokens]) -> Batch:
    """Prompts and answers to be scored, each prompt once for all of its answers."""
    groups: dict[tuple[int, ...], int] = {}
    return Batch.of_samples(
        [
            Sample(
                group=groups.setdefault(tokens.prompt_ids, len(groups)),
                index=number,
                prompt_ids=tokens.prompt_ids,
                token_ids=tokens.answer_ids,
                is_action=(False,) * (len(tokens.answer_ids) - 1) + (True,),
            )
            for number, tokens in enumerate(read)
        ]
    )
