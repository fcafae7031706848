"""How well scores agree with what people said of answers to prompts that were not learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import kendalltau

from ventaja.functional import partial_order_loss
from ventaja.training.ranked import RankedPrompt
from ventaja.training.ranking_batch import RankedBatch
from ventaja.training.rivals import lengths

BINS = 10
MOST_POINTS = 2000


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a judge gives to the answers of some prompts, and to the line."""

    score_SE: np.ndarray
    """By each of its heads."""
    line_E: np.ndarray | None
    """None for a judge that has none."""

    @property
    def score_S(self) -> np.ndarray:
        """Their mean."""
        mean: np.ndarray = self.score_SE.mean(axis=1)
        return mean


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Every pair of answers that a ranking tells apart, or (`tie`) does not."""

    better: np.ndarray
    worse: np.ndarray
    prompt: np.ndarray
    items: np.ndarray
    """How many answers its ranking has."""
    steps: np.ndarray
    """How many tiers are between the two."""

    @classmethod
    def of(cls, prompts: Sequence[RankedPrompt], *, ties: bool = False) -> _Pairs:
        rows, start = [], 0
        for number, p in enumerate(prompts):
            for ranking in p.rankings:
                found = [(i, j, 0) for i, j in ranking.ties()] if ties else ranking.pairs()
                rows += [
                    (
                        start + ranking.answers[i],
                        start + ranking.answers[j],
                        number,
                        len(ranking.answers),
                        steps,
                    )
                    for i, j, steps in found
                ]
            start += len(p.answers)
        columns = np.array(rows, dtype=int).reshape(-1, 5).T
        return cls(better=columns[0], worse=columns[1], prompt=columns[2], items=columns[3], steps=columns[4])

    def __len__(self) -> int:
        return len(self.better)

    def right(self, score_S: np.ndarray) -> np.ndarray:
        """1 where the scores say the same, 0 where the contrary, ½ where they are equal."""
        return (np.sign(score_S[self.better] - score_S[self.worse]) + 1) / 2

    def share(self, value: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, Any]:
        """The mean over the chosen pairs with its standard error, pairs of a prompt going together."""
        chosen = np.ones(len(self), dtype=bool) if chosen is None else chosen
        count = int(chosen.sum())
        if not count:
            return {"pairs": 0, "share": None, "standard_error": None}
        mean = float(value[chosen].mean())
        off = np.bincount(self.prompt[chosen], weights=value[chosen] - mean)
        return {"pairs": count, "share": mean, "standard_error": math.sqrt(float((off**2).sum())) / count}


def agreement(
    prompts: Sequence[RankedPrompt],
    ranked: RankedBatch,
    scores: Scores,
    *,
    rivals: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """All that is measured, as plain values for a JSON file; None for what these rankings cannot say.

    Accuracies are shares of pairs that the scores put in the raters' order; standard errors take the pairs of a prompt
    together. Kendall's τ-b is the mean over rankings (Kendall, 1945). The expected calibration error compares σ(difference),
    the chance that Plackett–Luce gives to the likelier order of a pair, with how often that order is the raters' (Guo et al.,
    arXiv:1706.04599, with bins of equal width over ½–1).
    """
    pairs, ties = _Pairs.of(prompts), _Pairs.of(prompts, ties=True)
    score_S = scores.score_S
    right = pairs.right(score_S)
    difference = np.abs(score_S[pairs.better] - score_S[pairs.worse])
    tied = np.abs(score_S[ties.better] - score_S[ties.worse])
    found: dict[str, Any] = {
        "prompts": len(prompts),
        "answers": len(score_S),
        "rankings": sum(len(p.rankings) for p in prompts),
        "loss": _loss(ranked, scores),
        "accuracy": pairs.share(right),
        "accuracy_by_answers": {
            str(k): pairs.share(right, pairs.items == k) for k in sorted(set(pairs.items.tolist()))
        },
        "accuracy_by_tiers_between": {
            str(step): pairs.share(right, pairs.steps == step) for step in sorted(set(pairs.steps.tolist()))
        },
        "ties": {
            "pairs": len(ties),
            "mean_difference": float(tied.mean()) if len(ties) else None,
            "mean_difference_of_others": float(difference.mean()) if len(pairs) else None,
        },
        "kendall_tau": _kendall(prompts, score_S),
        "calibration": _calibration(difference, right),
        "line": _line(prompts, scores),
        "length": _length(pairs, score_S, lengths(prompts)),
        "rivals": {name: pairs.share(pairs.right(rival)) for name, rival in (rivals or {}).items()},
        "points": [
            [int(length), float(score)]
            for length, score in zip(
                lengths(prompts)[:MOST_POINTS], score_S[:MOST_POINTS], strict=True
            )
        ],
    }  # fmt: skip
    if scores.score_SE.shape[1] > 1:
        found["ensemble"] = {
            "heads": int(scores.score_SE.shape[1]),
            "accuracies": [pairs.share(pairs.right(head))["share"] for head in scores.score_SE.T],
            "spread": float(scores.score_SE.std(axis=1).mean()),
        }
    return found


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a measurement that a run's metrics have."""
    named = {
        "eval/loss": found["loss"],
        "eval/accuracy": found["accuracy"]["share"],
        "eval/kendall_tau": found["kendall_tau"]["mean"],
        "eval/calibration_error": found["calibration"]["expected_error"],
        "eval/line_accuracy": found["line"]["accuracy"],
        "eval/prefers_longer": found["length"]["model_prefers_longer"],
    }
    return {name: value for name, value in named.items() if value is not None}


def _loss(ranked: RankedBatch, scores: Scores) -> float | None:
    """The weighted mean of the rankings' Plackett–Luce losses; lines count where the judge has one."""
    line = 0.0 if scores.line_E is None else float(scores.line_E.mean())
    item = torch.from_numpy(np.append(scores.score_S, line))
    tier_RK = ranked.tier_RK.clone()
    if scores.line_E is None:
        tier_RK[:, -1] = -1
    loss_R = partial_order_loss(item[ranked.place_RK], tier_RK)
    weight_R = ranked.weight_R.to(loss_R)
    return float((weight_R * loss_R).sum() / weight_R.sum())


def _kendall(prompts: Sequence[RankedPrompt], score_S: np.ndarray) -> dict[str, Any]:
    found, start = [], 0
    for p in prompts:
        for ranking in p.rankings:
            if len(set(ranking.tiers)) > 1:
                scores = score_S[[start + answer for answer in ranking.answers]]
                is_flat = np.ptp(scores) == 0  # says nothing of an order
                found.append(
                    0.0 if is_flat else float(kendalltau(scores, -np.array(ranking.tiers)).statistic)
                )
        start += len(p.answers)
    return {"rankings": len(found), "mean": float(np.mean(found)) if found else None}


def _calibration(difference: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    chance = expit(difference)
    bins = np.minimum(((chance - 0.5) * 2 * BINS).astype(int), BINS - 1)
    curve = [
        {
            "from": 0.5 + b / (2 * BINS),
            "to": 0.5 + (b + 1) / (2 * BINS),
            "pairs": int((bins == b).sum()),
            "predicted": float(chance[bins == b].mean()),
            "right": float(right[bins == b].mean()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]
    error = sum(each["pairs"] * abs(each["predicted"] - each["right"]) for each in curve) / max(len(right), 1)
    return {"expected_error": error if curve else None, "bins": curve}


def _line(prompts: Sequence[RankedPrompt], scores: Scores) -> dict[str, Any]:
    """How often an answer's score is on the side of the line where its rater put it."""
    if scores.line_E is None:
        return {"answers": 0, "accuracy": None}
    reward_S = scores.score_S - float(scores.line_E.mean())
    found, start = [], 0
    for p in prompts:
        for ranking in p.rankings:
            if ranking.line is not None:
                for answer, tier in zip(ranking.answers, ranking.tiers, strict=True):
                    found.append((reward_S[start + answer] > 0) == (tier < ranking.line))
        start += len(p.answers)
    return {"answers": len(found), "accuracy": float(np.mean(found)) if found else None}


def _length(pairs: _Pairs, score_S: np.ndarray, length_S: np.ndarray) -> dict[str, Any]:
    """Whether longer answers get more than the raters give them."""
    longer = np.sign(length_S[pairs.better] - length_S[pairs.worse])
    differ = longer != 0
    raters = (longer + 1) / 2
    model = (longer * np.sign(score_S[pairs.better] - score_S[pairs.worse]) + 1) / 2
    ours, theirs, gap = (pairs.share(value, differ) for value in (model, raters, model - raters))
    found = {
        "pairs": ours["pairs"],
        "model_prefers_longer": ours["share"],
        "raters_prefer_longer": theirs["share"],
        "difference": gap["share"],
        "standard_error": gap["standard_error"],
    }
    return found | {"said": _length_said(found)}


def _length_said(found: Mapping[str, Any]) -> str:
    if not found["pairs"]:
        return "No two answers of different length were told apart, so nothing is known of a bias by length."
    shares = (
        f"of two answers of different length the longer one scores higher in {found['model_prefers_longer']:.0%}, and the "
        f"raters preferred it in {found['raters_prefer_longer']:.0%}"
    )
    gap, error = found["difference"], found["standard_error"]
    if abs(gap) <= 2 * error or error == 0:
        return f"Length: {shares}. The difference is within two standard errors ({error:.1%} each): no bias is seen."
    towards = "longer" if gap > 0 else "shorter"
    return f"Length bias: {shares}. It favours {towards} answers beyond what the raters did."
