"""The textbook: one equation, one function. Tensors in, tensors out, no models.

Losses are minimised and end in `_loss`. `log_ratio` is new − old. A mask is named by what True means.
Suffixes give the axes: B sequences, T time, P prompts, G completions of a prompt, N packed tokens,
V vocabulary, D width, K items of a ranking. In a signature, `*S` is any shape.
"""

from ventaja.functional.advantages import (
    batch_centred,
    gae,
    gae_over_actions,
    group_centred,
    group_standardised,
    leave_one_out,
    length_adaptive_lambda,
    rescale,
    returns_to_go,
    td_advantage,
    whiten,
)
from ventaja.functional.diagnostics import (
    approx_kl,
    clip_fraction_dual,
    clip_fraction_high,
    clip_fraction_low,
    explained_variance,
)
from ventaja.functional.fused import (
    fused_kl,
    fused_logprobs,
)
from ventaja.functional.importance import (
    effective_sample_size,
    importance_ratio,
    masked_weight,
    self_normalised_weight,
    sequence_log_ratio,
    token_log_ratio,
    trajectory_log_ratio,
    truncated_weight,
)
from ventaja.functional.kl import (
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3_plus,
    kl_k3_weighted,
)
from ventaja.functional.logprobs import (
    token_entropy,
    token_logprobs,
)
from ventaja.functional.losses import (
    bradley_terry_loss,
    clipped_surrogate_loss,
    clipped_value_loss,
    detached_clamp_loss,
    nll,
    nll_loss,
    plackett_luce_loss,
    policy_gradient_loss,
    surrogate_loss,
    value_loss,
)
from ventaja.functional.overoptimisation import (
    best_of_n,
    best_of_n_kl,
    gold_by_distance,
    gold_by_distance_best_of_n,
)
from ventaja.functional.process import (
    discounted_to_go,
    minimum_to_go,
)
from ventaja.functional.rankings import (
    centring_loss,
    crowd_ranking_loss,
    dpo_reward,
    partial_order_loss,
)
from ventaja.functional.shaping import soft_overlong_punishment
from ventaja.functional.weights import (
    fixed_length,
    position_ramp,
    sequence_mean,
    sequence_sum,
    token_mean,
)

__all__ = [
    "approx_kl",
    "batch_centred",
    "best_of_n",
    "best_of_n_kl",
    "bradley_terry_loss",
    "centring_loss",
    "clip_fraction_dual",
    "clip_fraction_high",
    "clip_fraction_low",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "crowd_ranking_loss",
    "detached_clamp_loss",
    "discounted_to_go",
    "dpo_reward",
    "effective_sample_size",
    "explained_variance",
    "fixed_length",
    "fused_kl",
    "fused_logprobs",
    "gae",
    "gae_over_actions",
    "gold_by_distance",
    "gold_by_distance_best_of_n",
    "group_centred",
    "group_standardised",
    "importance_ratio",
    "kl_exact",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_k3_plus",
    "kl_k3_weighted",
    "leave_one_out",
    "length_adaptive_lambda",
    "masked_weight",
    "minimum_to_go",
    "nll",
    "nll_loss",
    "partial_order_loss",
    "plackett_luce_loss",
    "policy_gradient_loss",
    "position_ramp",
    "rescale",
    "returns_to_go",
    "self_normalised_weight",
    "sequence_log_ratio",
    "sequence_mean",
    "sequence_sum",
    "soft_overlong_punishment",
    "surrogate_loss",
    "td_advantage",
    "token_entropy",
    "token_log_ratio",
    "token_logprobs",
    "token_mean",
    "trajectory_log_ratio",
    "truncated_weight",
    "value_loss",
    "whiten",
]
