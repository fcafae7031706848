"""One optimiser step of the policy on one minibatch."""

from __future__ import annotations

from dataclasses import replace

import torch

from ventaja.settings import Sampling
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import epoch_column
from ventaja.training.learner import Learner, UpdateReport
from ventaja.training.left_out import left_out_sums
from ventaja.training.metrics import ratio_metrics
from ventaja.training.minibatches import Minibatch
from ventaja.training.objective import PolicyObjective, token_weights


def update(
    policy: Learner,
    minibatch: Minibatch,
    algorithm: Algorithm,
    *,
    kl_coef: float,
    sampling: Sampling,
    moved: bool,
) -> UpdateReport:
    """Push log-probs up or down by their advantages, if the minibatch teaches anything.

    `moved` says that a step has been made since the round was sampled, so that ratios may differ from 1. Without
    samples, or with a KL in the reward that moves nothing here, no step is made.
    """
    batch, members = minibatch.batch, list(minibatch.members)
    moves = algorithm.trains_every_token or bool(batch.columns["advantage"][members].any())
    if not members or (algorithm.kl == "reward" and not moves):
        return UpdateReport.empty(policy.learning_rate)
    temperature = sampling.temperature
    left_out = left_out_sums(
        batch,
        members,
        algorithm,
        lambda chosen: policy.score(
            batch, lambda tokens: batch.rows(chosen, max_tokens=tokens), temperature=temperature
        ),
        moved=moved,
        epoch=minibatch.epoch,
    )
    log_ratio_ST = torch.full(batch.is_action_ST.shape, torch.nan)
    is_action = torch.zeros_like(batch.is_action_ST)
    is_action[members] = batch.is_action_ST[members]
    report = policy.update(
        lambda tokens: minibatch.rows(algorithm, tokens),
        PolicyObjective(
            algorithm,
            batch,
            kl_coef,
            old_logprob=epoch_column("old_logprob", algorithm, minibatch.epoch),
            log_ratio_ST=log_ratio_ST,
        ),
        token_weights(algorithm, is_action, max_tokens=sampling.max_tokens),
        temperature=temperature,
        entropy=algorithm.entropy_coef != 0,
        left_out=left_out,
    )
    return replace(report, means=report.means | ratio_metrics(batch, members, log_ratio_ST, algorithm))
