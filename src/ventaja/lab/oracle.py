"""A policy whose every trajectory can be written down, and exact expectations over them.

With 4 tokens and 3 steps there are 64 trajectories, and 4096 groups of two. The expected gradient of any
estimator is then a finite sum, and whether the estimator is biased is a question with an exact answer.

Suffixes: N trajectories, T steps, V tokens, S states (prefixes of a trajectory), M outcomes, G group size.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ventaja.functional import kl_exact, token_entropy, token_logprobs

__all__ = ["TabularPolicy", "expected_gradient", "group_outcomes", "trajectory_kl"]


class TabularPolicy:
    """One row of logits for every prefix that a trajectory can have, in float64.

    `logits_SV` is the only parameter. Row 0 is the empty prefix, then come the prefixes of one token, of two,
    and so on: S = 1 + V + V² + … + V^(T−1).
    """

    def __init__(self, *, vocabulary: int = 4, length: int = 3, seed: int = 0) -> None:
        if vocabulary < 2 or length < 1:
            raise ValueError(f"need 2 tokens and 1 step at least, got {vocabulary} and {length}.")
        self.vocabulary = vocabulary
        self.length = length
        states = sum(vocabulary**t for t in range(length))
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(states, vocabulary, generator=generator, dtype=torch.float64)
        self.logits_SV = logits.requires_grad_()

    def enumerate(self) -> Int[Tensor, "N T"]:
        """All V^T trajectories, in the order of counting."""
        tokens = torch.arange(self.vocabulary)
        return torch.cartesian_prod(*[tokens] * self.length).view(-1, self.length)

    def states(self, trajectory_NT: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The row of `logits_SV` from which each token is drawn: that of the tokens before it."""
        state_N = torch.zeros_like(trajectory_NT[:, 0])
        states = [state_N]
        for token_N in trajectory_NT.unbind(1)[:-1]:
            # as in a heap: the children of s are V·s + 1 … V·s + V
            state_N = self.vocabulary * state_N + 1 + token_N
            states.append(state_N)
        return torch.stack(states, dim=1)

    def greedy(self) -> int:
        """Which trajectory of `enumerate` takes the likeliest token at each step."""
        state, number = 0, 0
        for _ in range(self.length):
            token = int(self.logits_SV[state].argmax())
            state, number = self.vocabulary * state + 1 + token, self.vocabulary * number + token
        return number

    def logprobs(self, trajectory_NT: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """log π(a_t | a_<t) of every token, with its gradient to `logits_SV`."""
        return token_logprobs(self.logits_SV[self.states(trajectory_NT)], trajectory_NT)

    def probabilities(self) -> Float[Tensor, "N"]:
        """The probability of each trajectory of `enumerate`, with its gradient. They sum to 1."""
        return self.logprobs(self.enumerate()).sum(1).exp()

    def expected_reward(self, reward_N: Float[Tensor, "N"]) -> Float[Tensor, ""]:
        """E_π[R] = Σ_n π(n) R_n, for the reward of each trajectory of `enumerate`, with its gradient."""
        return (self.probabilities() * reward_N).sum()

    def exact_gradient(self, reward_N: Float[Tensor, "N"]) -> Float[Tensor, "S V"]:
        """∇ E_π[R], the gradient that a policy-gradient estimator is after."""
        return torch.autograd.grad(self.expected_reward(reward_N), self.logits_SV)[0]

    def values(self, reward_N: Float[Tensor, "N"]) -> Float[Tensor, "N T"]:
        """What a perfect critic says before each token of each trajectory of `enumerate`:  V = E_π[R | a_<t].

        Without gradient, as a critic's is to the policy.
        """
        probability_N = self.probabilities().detach()
        columns = []
        for t in range(self.length):
            # trajectories that begin with the same t tokens stand together, V^(T−t) of them
            weight_PN = probability_N.view(self.vocabulary**t, -1)
            reward_PN = reward_N.view(self.vocabulary**t, -1)
            value_P = (weight_PN * reward_PN).sum(1) / weight_PN.sum(1)
            columns.append(value_P.repeat_interleave(weight_PN.shape[1]))
        return torch.stack(columns, dim=1)

    def entropy(self) -> Float[Tensor, ""]:
        """Entropy of the whole trajectory:  Σ_n π(n) Σ_t H(π(· | a_<t)),  by the chain rule."""
        entropy_NT = token_entropy(self.logits_SV)[self.states(self.enumerate())]
        return (self.probabilities() * entropy_NT.sum(1)).sum()


def trajectory_kl(policy: TabularPolicy, reference: TabularPolicy) -> Float[Tensor, ""]:
    """KL between the distributions of whole trajectories:  Σ_n π(n) Σ_t KL(π(· | a_<t) ‖ π_ref(· | a_<t))."""
    kl_NT = kl_exact(policy.logits_SV, reference.logits_SV)[policy.states(policy.enumerate())]
    return (policy.probabilities() * kl_NT.sum(1)).sum()


def group_outcomes(policy: TabularPolicy, *, size: int) -> tuple[Int[Tensor, "M G"], Float[Tensor, "M"]]:
    """All ways to draw `size` trajectories independently, and the probability of each, as a constant.

    Rows index `policy.enumerate()`. There are N^size of them: 4096 for two of 64.
    """
    probability_N = policy.probabilities().detach()
    index_MG = torch.cartesian_prod(*[torch.arange(len(probability_N))] * size).view(-1, size)
    return index_MG, probability_N[index_MG].prod(1)


def expected_gradient(
    policy: TabularPolicy,
    loss: Callable[[Int[Tensor, "M G"]], Float[Tensor, "M"]],
    *,
    behaviour: TabularPolicy | None = None,
    size: int = 1,
) -> Float[Tensor, "S V"]:
    """E[∇ loss] over groups of `size` trajectories that `behaviour` samples (default: the policy itself).

    `loss` gets the groups as rows of indices into `policy.enumerate()` and gives one loss per group, with its
    gradient. The probability of a group is held constant, as it is for anyone who samples. The graph is kept,
    so that several estimators can share the same log-probs.
    """
    index_MG, probability_M = group_outcomes(behaviour or policy, size=size)
    expected_loss = (probability_M * loss(index_MG)).sum()
    return torch.autograd.grad(expected_loss, policy.logits_SV, retain_graph=True)[0]
