"""The bias of an algorithm as it trains: its own advantages, loss and weights, over every group that can be sampled."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ventaja.errors import ConfigError
from ventaja.lab.oracle import TabularPolicy, expected_gradient, group_outcomes
from ventaja.lab.studies import Bias
from ventaja.training.algorithms import Algorithm

__all__ = ["algorithm_bias"]


def algorithm_bias(
    algorithm: Algorithm,
    policy: TabularPolicy,
    reward_N: Float[Tensor, "N"],
    *,
    behaviour: TabularPolicy | None = None,
    value_NT: Float[Tensor, "N T"] | None = None,
    variance: bool = False,
) -> Bias:
    """The exact gradient of the expected reward, and what an update of this algorithm gives on average instead.

    One update sees one group of `algorithm.group_size` trajectories that `behaviour` samples (default: the policy
    itself, as it is in a round's first update). `reward_N` is the reward of each trajectory of `policy.enumerate()`.
    The code is that of training, with whatever functions of one's own the algorithm has. There are N^size groups: take
    a policy with few tokens and steps. Weights are float32, so an unbiased algorithm has a relative bias of about 1e-7.

    With baseline `critic` the critic says `value_NT` before each token of each trajectory: by default the exact values,
    `policy.values(reward_N)`. With baseline `greedy` the greedy answer is the policy's likeliest trajectory, token by
    token. `variance` computes that of one update's gradient too, one group after another.

    The size of the gradient depends on how tokens are weighed; `Bias.direction` does not look at it. Raises ConfigError
    if the algorithm aims at something else too: a KL or an entropy bonus.
    """
    # Loaded when used: with the models' code, which a study of the equations alone has no use for.
    from ventaja.models import TokenScores
    from ventaja.training.batch import Batch, Sample
    from ventaja.training.credit import credit, whitened
    from ventaja.training.objective import PolicyObjective, token_weights

    if algorithm.kl != "none" or algorithm.entropy_coef:
        raise ConfigError(
            f"{algorithm.name} does not follow the reward alone. Compare it without the rest: "
            "dataclasses.replace(algorithm, kl='none', kl_coef=0.0, entropy_coef=0.0)."
        )
    trajectory_NT = policy.enumerate()
    logprob_NT = policy.logprobs(trajectory_NT)
    old_NT = (behaviour or policy).logprobs(trajectory_NT).detach()

    if algorithm.has_critic and value_NT is None:
        value_NT = (behaviour or policy).values(reward_N)

    def loss(index_G: Int[Tensor, "G"]) -> Tensor:
        old_GT, size, length = old_NT[index_G], len(index_G), policy.length
        reward_GT = torch.zeros(size, length, dtype=torch.float64)
        reward_GT[:, -1] = reward_N[index_G]
        is_last_GT = torch.arange(length).expand(size, -1) == length - 1
        samples = [
            Sample(group=0, index=k, prompt_ids=(0,), token_ids=tuple(tokens), is_action=(True,) * length)
            for k, tokens in enumerate(trajectory_NT[index_G].tolist())
        ]
        batch = Batch.of_samples(samples).with_columns(
            token_reward=reward_GT, is_rewarded=is_last_GT, old_logprob=old_GT, sampler_logprob=old_GT
        )
        if value_NT is not None:
            batch = batch.with_columns(value=value_NT[index_G], end_value=torch.zeros_like(reward_GT))
        if algorithm.baseline == "greedy":
            greedy = reward_N[(behaviour or policy).greedy()]
            batch = batch.with_columns(greedy_reward=greedy.expand_as(reward_GT))
        batch = credit(batch, algorithm)
        if algorithm.scale == "minibatch_std":
            batch = whitened(batch, range(size))
        (row,) = batch.rows(range(size), max_tokens=size * length + 1)
        scores = TokenScores(logprob_NT[index_G][row.sequence_M, row.time_M], None)
        loss_M, _ = PolicyObjective(algorithm, batch, kl_coef=0.0)(row, scores)
        weight_GT = token_weights(algorithm, batch.is_action_ST, max_tokens=length)
        return (loss_M * row.pick(weight_GT)).sum()

    size = algorithm.group_size
    gradient = expected_gradient(
        policy,
        lambda index_MG: torch.stack([loss(index_G) for index_G in index_MG]),
        behaviour=behaviour,
        size=size,
    )
    spread = float("nan")
    if variance:
        spread = -float(gradient.square().sum())
        for index_G, probability in zip(*group_outcomes(behaviour or policy, size=size), strict=True):
            (one,) = torch.autograd.grad(loss(index_G), policy.logits_SV, retain_graph=True)
            spread += float(probability * one.square().sum())
    return Bias(exact=policy.exact_gradient(reward_N), expected=-gradient, variance=spread)
