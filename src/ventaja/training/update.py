"""One optimiser step of the policy, and of its critic if it has one, on one minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.models import Policy, Wanted
from ventaja.settings import Sampling
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import epoch_column
from ventaja.training.credit import whitened
from ventaja.training.critic import Critic, value_term
from ventaja.training.learner import Learner, Term, UpdateReport
from ventaja.training.left_out import left_out_sums
from ventaja.training.metrics import ratio_metrics
from ventaja.training.minibatches import Minibatch
from ventaja.training.objective import Coefficients, PolicyObjective, entropy_bonus, token_weights


@dataclass(frozen=True, kw_only=True)
class Learners:
    """The networks that an update needs."""

    policy: Learner
    critic: Critic | None = None
    reference: Policy | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How far a round is, as an update needs to know it."""

    moved: bool = False
    """A step has been made since the round was sampled, so that ratios may differ from 1."""
    policy_moves: bool = True
    """False while the critic alone is trained."""


FRESH = Stage()


def update(
    learners: Learners,
    minibatch: Minibatch,
    algorithm: Algorithm,
    *,
    coefficients: Coefficients,
    sampling: Sampling,
    stage: Stage = FRESH,
) -> UpdateReport:
    """Push log-probs up or down by their advantages, and values towards what they should have been.

    Without samples no step is made, nor one of the policy where nothing in the minibatch teaches it.
    """
    batch, members = minibatch.batch, list(minibatch.members)
    if not members:
        return UpdateReport.empty(learners.policy.learning_rate)
    if algorithm.scale == "minibatch_std":
        batch = whitened(batch, members)
        minibatch = replace(minibatch, batch=batch)
    is_action = torch.zeros_like(batch.is_action_ST)
    is_action[members] = batch.is_action_ST[members]
    moves = algorithm.trains_every_token or bool(batch.columns["advantage"][members].any())
    # where advantages are known before scoring, what does not teach is left out of the rows instead
    is_kept = algorithm.kl == "reward" or algorithm.has_critic or algorithm.scale == "minibatch_std"
    is_trained = stage.policy_moves and (moves or not is_kept)
    critic = learners.critic
    joint = None
    if critic is not None and critic.shares_trunk:
        joint = value_term(critic.config, batch, is_action)
    if is_trained:
        report = _policy_update(learners, minibatch, algorithm, coefficients, sampling, stage.moved, joint)
    else:
        report = UpdateReport.empty(learners.policy.learning_rate)
    if critic is None or (joint is not None and is_trained):
        return report
    alone = critic.learner.update(
        lambda tokens: minibatch.rows(algorithm, tokens, ends=critic.rows_have_ends),
        [value_term(critic.config, batch, is_action)],
        wanted=Wanted(logprob=False, value=True, into_trunk=not critic.shares_trunk),
    )
    stepped = alone.stepped or alone.critic_stepped
    return replace(report, means=report.means | alone.means, critic_stepped=stepped)


def policy_terms(
    algorithm: Algorithm,
    objective: PolicyObjective,
    is_action_ST: Tensor,
    *,
    entropy_coef: float,
    max_tokens: int,
) -> list[Term]:
    """The policy's loss, and the entropy bonus, which is c times the mean entropy of the tokens however they are weighed."""
    terms = [Term(objective, token_weights(algorithm, is_action_ST, max_tokens=max_tokens))]
    if algorithm.entropy_coef != 0:
        terms.append(Term(entropy_bonus(entropy_coef), F.token_mean(is_action_ST)))
    return terms


def _policy_update(
    learners: Learners,
    minibatch: Minibatch,
    algorithm: Algorithm,
    coefficients: Coefficients,
    sampling: Sampling,
    moved: bool,
    values: Term | None,
) -> UpdateReport:
    """A step of the policy; with `values` of its value head in the same passes."""
    policy, batch, members = learners.policy, minibatch.batch, list(minibatch.members)
    temperature = sampling.temperature

    def score(chosen: Sequence[int]) -> Tensor:
        return policy.score(
            batch, lambda tokens: batch.rows(chosen, max_tokens=tokens), temperature=temperature
        )

    left_out = left_out_sums(batch, members, algorithm, score, moved=moved, epoch=minibatch.epoch)
    log_ratio_ST = torch.full(batch.is_action_ST.shape, torch.nan)
    is_action = torch.zeros_like(batch.is_action_ST)
    is_action[members] = batch.is_action_ST[members]
    objective = PolicyObjective(
        algorithm,
        batch,
        coefficients.kl,
        old_logprob=epoch_column("old_logprob", algorithm, minibatch.epoch),
        log_ratio_ST=log_ratio_ST,
    )
    terms = policy_terms(
        algorithm, objective, is_action, entropy_coef=coefficients.entropy, max_tokens=sampling.max_tokens
    )
    is_exact = algorithm.kl == "loss" and algorithm.kl_estimator == "exact"
    into_trunk = learners.critic is not None and learners.critic.config.through_trunk
    ends = values is not None and learners.critic is not None and learners.critic.rows_have_ends
    report = policy.update(
        lambda tokens: minibatch.rows(algorithm, tokens, ends=ends),
        terms if values is None else [*terms, values],
        wanted=Wanted(
            temperature=temperature,
            entropy=algorithm.entropy_coef != 0,
            value=values is not None,
            into_trunk=into_trunk,
            reference=learners.reference if is_exact else None,
        ),
        left_out=left_out,
    )
    return replace(report, means=report.means | ratio_metrics(batch, members, log_ratio_ST, algorithm))
