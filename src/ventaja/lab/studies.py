"""Which estimators are biased, and by how much: exact numbers from the oracle."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ventaja.functional import (
    clipped_surrogate_loss,
    group_centred,
    group_standardised,
    kl_exact,
    leave_one_out,
    policy_gradient_loss,
    token_log_ratio,
    trajectory_log_ratio,
)
from ventaja.lab.oracle import TabularPolicy, expected_gradient

__all__ = ["ESTIMATORS", "Bias", "Estimator", "estimator_bias", "kl_gradient_bias"]

# (logprob_NT, old_logprob_NT, reward_MG, index_MG) -> loss_M. Log-probs are those of all N trajectories, and
# a group names its own by index.
Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Bias:
    """An estimator's expected gradient beside the true one, both uphill in the reward."""

    exact: Tensor
    expected: Tensor
    variance: float = float("nan")
    """E‖g − E g‖² of one update's gradient g; NaN where it was not computed."""

    @property
    def relative(self) -> float:
        """‖expected − exact‖ / ‖exact‖. Zero for an unbiased estimator."""
        return float((self.expected - self.exact).norm() / self.exact.norm())

    @property
    def direction(self) -> float:
        """The same after the best rescaling, √(1 − cos²): the part that no learning rate can mend."""
        cosine = (self.expected * self.exact).sum() / (self.expected.norm() * self.exact.norm())
        return float((1 - cosine.square()).clamp(min=0).sqrt())


def reinforce(logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor) -> Tensor:
    """Score times reward, no baseline."""
    return _policy_gradient(logprob_NT, reward_MG, index_MG)


def rloo(logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor) -> Tensor:
    """Score times `leave_one_out`."""
    return _policy_gradient(logprob_NT, leave_one_out(reward_MG), index_MG)


def centred(logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor) -> Tensor:
    """Score times `group_centred`."""
    return _policy_gradient(logprob_NT, group_centred(reward_MG), index_MG)


def standardised(logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor) -> Tensor:
    """Score times `group_standardised`."""
    return _policy_gradient(logprob_NT, group_standardised(reward_MG), index_MG)


def trajectory_ratio(
    logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor
) -> Tensor:
    """Reward times the product of all the token ratios."""
    log_ratio_NT = token_log_ratio(logprob_NT, old_logprob_NT)
    everywhere = torch.ones_like(log_ratio_NT, dtype=torch.bool)
    ratio_N = trajectory_log_ratio(log_ratio_NT, everywhere).exp()
    return -(ratio_N[index_MG] * reward_MG).mean(1)


def token_ratio(logprob_NT: Tensor, old_logprob_NT: Tensor, reward_MG: Tensor, index_MG: Tensor) -> Tensor:
    """Reward times the sum of the token ratios: the surrogate of PPO and GRPO, with the clip out of reach."""
    log_ratio_NT = token_log_ratio(logprob_NT, old_logprob_NT)
    advantage_MGT = reward_MG[:, :, None].expand(-1, -1, log_ratio_NT.shape[1])
    unclipped = float("inf")
    loss_MGT = clipped_surrogate_loss(
        log_ratio_NT[index_MG], advantage_MGT, clip_low=unclipped, clip_high=unclipped
    )
    return loss_MGT.sum(2).mean(1)


ESTIMATORS: dict[str, Estimator] = {
    "reinforce": reinforce,
    "leave_one_out": rloo,
    "group_centred": centred,
    "group_standardised": standardised,
    "trajectory_ratio": trajectory_ratio,
    "token_ratio": token_ratio,
}


def estimator_bias(
    estimator: Estimator,
    policy: TabularPolicy,
    reward_N: Float[Tensor, "N"],
    *,
    behaviour: TabularPolicy | None = None,
    size: int = 1,
) -> Bias:
    """The exact gradient of the expected reward, and what the estimator gives on average instead.

    Groups of `size` are sampled by `behaviour` (default: the policy itself). `reward_N` is the reward of each
    trajectory of `policy.enumerate()`. The estimator is one of `ESTIMATORS` or a function of the same shape.
    """
    trajectory_NT = policy.enumerate()
    old_logprob_NT = (behaviour or policy).logprobs(trajectory_NT).detach()
    logprob_NT = policy.logprobs(trajectory_NT)
    gradient = expected_gradient(
        policy,
        lambda index_MG: estimator(logprob_NT, old_logprob_NT, reward_N[index_MG], index_MG),
        behaviour=behaviour,
        size=size,
    )
    return Bias(exact=policy.exact_gradient(reward_N), expected=-gradient)


def kl_gradient_bias(
    penalty: Callable[[Tensor], Tensor],
    policy: TabularPolicy,
    reference: TabularPolicy,
    *,
    behaviour: TabularPolicy | None = None,
) -> Bias:
    """What a KL estimate gives as a loss on sampled tokens, beside the exact KL's gradient at those states.

    Both hold the distribution of the states constant, as a per-token penalty does. `behaviour` samples (default: the
    policy itself). `penalty` gets log π − log π_ref [N T] of every trajectory.
    """
    trajectory_NT = policy.enumerate()
    log_ratio_NT = policy.logprobs(trajectory_NT) - reference.logprobs(trajectory_NT).detach()
    kl_S = kl_exact(policy.logits_SV, reference.logits_SV.detach())
    kl_NT = kl_S[policy.states(trajectory_NT)]
    return Bias(
        exact=expected_gradient(policy, lambda index_MG: kl_NT.sum(1)[index_MG[:, 0]], behaviour=behaviour),
        expected=expected_gradient(
            policy, lambda index_MG: penalty(log_ratio_NT).sum(1)[index_MG[:, 0]], behaviour=behaviour
        ),
    )


def _policy_gradient(logprob_NT: Tensor, advantage_MG: Tensor, index_MG: Tensor) -> Tensor:
    return policy_gradient_loss(logprob_NT.sum(1)[index_MG], advantage_MG).mean(1)
