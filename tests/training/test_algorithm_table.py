"""Every row of the table against its paper's formula, written out here once more in NumPy, answer by answer."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_task import group
from torch.testing import assert_close

from ventaja.errors import ConfigError
from ventaja.models import TokenScores
from ventaja.training import ALGORITHMS, Algorithm, customised
from ventaja.training.algorithms import CISPO, DAPO, GRPO, GSPO, PPO, REINFORCE, RLOO
from ventaja.training.batch import Batch
from ventaja.training.credit import RunningMean, credit
from ventaja.training.objective import PolicyObjective, token_weights

MAX_TOKENS = 5  # the longest allowed answer, longer than any here
LENGTHS = [3, 1, 2, 4]  # two prompts with two answers each
REWARDS = [1.0, 0.25, -0.5, 2.0]
RUNNING = 0.4  # the mean reward of past rounds
PAIRS = [(0, 1), (2, 3)]

rng = np.random.default_rng(7)
NEW = [-rng.uniform(0.1, 2.0, n) for n in LENGTHS]
# The first tokens moved far enough to be clipped either way; the others by little.
OLD = [
    new - step
    for new, step in zip(NEW, ([0.5, -0.5, 0.05], [-0.6], [0.4, -0.02], [0.1, 2.0, -0.3, 0.0]), strict=True)
]
VALUE = [rng.normal(0.5, 0.3, n) for n in LENGTHS]  # the critic's, before each token
GREEDY = [0.75, -0.25]  # what the greedy answers to the two prompts earn
REF = [new - rng.normal(0.0, 0.4, n) for new, n in zip(NEW, LENGTHS, strict=True)]


def ours(algorithm: Algorithm) -> tuple[float, list[np.ndarray]]:
    """Our loss, and its gradient at each token's log-prob."""
    groups = [
        group((10,), [(1,) * 3, (2,)], REWARDS[:2]),
        group((11,), [(3,) * 2, (4,) * 4], REWARDS[2:]),
    ]
    batch = Batch.of_groups(groups)
    new_ST = batch.table([row.tolist() for row in NEW]).double()
    # An on-policy update takes the new log-probs as the old ones.
    old_ST = new_ST if algorithm.is_on_policy else batch.table([row.tolist() for row in OLD]).double()
    columns = {"sampler_logprob": old_ST, "token_reward": batch.columns["token_reward"].double()}
    if not algorithm.is_on_policy or algorithm.kl == "reward":
        columns["old_logprob"] = old_ST
    if algorithm.has_critic:
        columns["value"] = batch.table([row.tolist() for row in VALUE]).double()
        columns["end_value"] = torch.zeros_like(new_ST)
    if algorithm.baseline == "greedy":
        columns["greedy_reward"] = batch.per_group(GREEDY).double()
    if algorithm.needs_reference:
        columns["ref_logprob"] = batch.table([row.tolist() for row in REF]).double()
    batch = credit(
        batch.with_columns(**columns), algorithm, running=RunningMean(RUNNING, 3), kl_coef=algorithm.kl_coef
    )
    weight_ST = token_weights(algorithm, batch.is_action_ST, max_tokens=MAX_TOKENS)
    (row,) = batch.rows(range(4), max_tokens=1000)
    logprob_M = row.pick(new_ST).requires_grad_(True)
    loss_M, _ = PolicyObjective(algorithm, batch, algorithm.kl_coef)(row, TokenScores(logprob_M, None))
    loss = (loss_M * row.pick(weight_ST)).sum()
    loss.backward()
    gradient_ST = torch.zeros_like(new_ST)
    gradient_ST[row.sequence_M, row.time_M] = logprob_M.grad
    return loss.item(), [gradient_ST[s, :n].numpy() for s, n in enumerate(LENGTHS)]


# Each paper's loss of the whole batch, and the gradient of it, from the log-probs above -------------------


def reinforce():
    # −1/B Σ_b (R_b − b) Σ_t log π;  on policy
    return (
        [-(r - RUNNING) * new for r, new in zip(REWARDS, NEW, strict=True)],
        [np.full(n, -(r - RUNNING)) for r, n in zip(REWARDS, LENGTHS, strict=True)],
        [1 / 4] * 4,
    )


def rloo():
    # R(x, y) = r − β Σ_t log π/π_ref;  Â_i = R_i − mean of the others;  −1/B Σ Â Σ_t log π
    total = [r - 0.05 * (new - ref).sum() for r, new, ref in zip(REWARDS, NEW, REF, strict=True)]
    advantage = [total[0] - total[1], total[1] - total[0], total[2] - total[3], total[3] - total[2]]
    return (
        [-a * new for a, new in zip(advantage, NEW, strict=True)],
        [np.full(n, -a) for a, n in zip(advantage, LENGTHS, strict=True)],
        [1 / 4] * 4,
    )


def remax():
    # R(x, y) = r − β Σ_t log π/π_ref;  Â = R − r(greedy answer);  −1/B Σ Â Σ_t log π
    total = [r - 0.05 * (new - ref).sum() for r, new, ref in zip(REWARDS, NEW, REF, strict=True)]
    advantage = [total[0] - 0.75, total[1] - 0.75, total[2] + 0.25, total[3] + 0.25]
    return (
        [-a * new for a, new in zip(advantage, NEW, strict=True)],
        [np.full(n, -a) for a, n in zip(advantage, LENGTHS, strict=True)],
        [1 / 4] * 4,
    )


def clipped(ratio, advantage, low, high):
    """−min(r·Â, clip(r)·Â) of one token, and its derivative by log π (r's own derivative is r)."""
    plain, cut = ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage
    if plain <= cut:
        return -plain, -plain
    return -cut, 0.0


def whitened_returns(beta):
    """Reward to go, less β times the KL to go, standardised over all tokens of the batch."""
    to_go = []
    for r, old, ref in zip(REWARDS, OLD, REF, strict=True):
        per_token = -beta * (old - ref)
        per_token[-1] += r
        to_go.append(np.cumsum(per_token[::-1])[::-1])
    every = np.concatenate(to_go)
    return [(row - every.mean()) / every.std(ddof=1) for row in to_go]


def clipped_batch(advantages, low, high, weights):
    pairs = [
        [clipped(np.exp(n - o), a, low, high) for n, o, a in zip(new, old, advantage, strict=True)]
        for new, old, advantage in zip(NEW, OLD, advantages, strict=True)
    ]
    loss = [np.array([p[0] for p in row]) for row in pairs]
    return loss, [np.array([p[1] for p in row]) for row in pairs], weights


def ppo():
    # δ_t = r_t + V_{t+1} − V_t with V = 0 after the end, Â_t = Σ_l 0.95^l δ_{t+l}, whitened over the tokens;
    # the clipped surrogate, mean over tokens; KL (k1, β = 0.05) in the reward
    advantages = []
    for r, old, ref, value in zip(REWARDS, OLD, REF, VALUE, strict=True):
        reward = -0.05 * (old - ref)
        reward[-1] += r
        delta = reward + np.append(value[1:], 0.0) - value
        advantages.append(
            np.array([sum(0.95**k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))])
        )
    every = np.concatenate(advantages)
    whitened = [(row - every.mean()) / every.std(ddof=1) for row in advantages]
    return clipped_batch(whitened, 0.2, 0.2, [1 / 10] * 4)


def ppo_clip():
    # the clipped surrogate with whitened returns, mean over tokens; KL (k1, β = 0.05) in the reward
    return clipped_batch(whitened_returns(0.05), 0.2, 0.2, [1 / 10] * 4)


def reinforce_pp():
    # Â_t = r − β Σ_{i≥t} KL_i, normalised over the global batch; PPO's clipped loss
    return clipped_batch(whitened_returns(0.01), 0.2, 0.2, [1 / 10] * 4)


def reinforce_pp_baseline():
    # Â = r less its group's mean, then (Â − mean) / std over the batch's tokens; PPO's clipped loss
    # + β ½ (log π/π_ref)², whose derivative by log π is log π/π_ref;  β = 0.01
    every = np.concatenate(per_token(group_advantages(divided=False)))
    advantages = [
        (row - every.mean()) / every.std(ddof=1) for row in per_token(group_advantages(divided=False))
    ]
    losses, gradients, weights = clipped_batch(advantages, 0.2, 0.2, [1 / 10] * 4)
    x = [new - ref for new, ref in zip(NEW, REF, strict=True)]
    return (
        [loss + 0.01 * 0.5 * d**2 for loss, d in zip(losses, x, strict=True)],
        [gradient + 0.01 * d for gradient, d in zip(gradients, x, strict=True)],
        weights,
    )


def group_advantages(*, divided):
    result = []
    for pair in PAIRS:
        r = np.array([REWARDS[i] for i in pair])
        advantage = r - r.mean()
        result += list(advantage / r.std(ddof=1)) if divided else list(advantage)
    return result


def per_token(advantages):
    return [np.full(n, a) for a, n in zip(advantages, LENGTHS, strict=True)]


def grpo():
    # on policy: r = 1 with gradient 1;  1/G Σ_i 1/|o_i| Σ_t (Â − β (π_ref/π − log π_ref/π − 1)),  β = 0.04
    losses, gradients = [], []
    for a, new, ref in zip(group_advantages(divided=True), NEW, REF, strict=True):
        x = ref - new
        losses.append(-a + 0.04 * (np.exp(x) - x - 1))
        gradients.append(-a + 0.04 * (1 - np.exp(x)))
    return losses, gradients, [1 / (4 * n) for n in LENGTHS]


def grpo_process():
    # Â_t = Σ of the group-standardised step rewards from t on: with one reward per answer, GRPO's
    return grpo()


def dr_grpo():
    # no division by the deviation, and by one constant instead of |o_i|;  on policy
    advantages = per_token(group_advantages(divided=False))
    return [-a for a in advantages], [-a for a in advantages], [1 / (4 * MAX_TOKENS)] * 4


def dapo():
    # 1/Σ|o_i| Σ_i Σ_t min(r Â, clip(r, 1 − 0.2, 1 + 0.28) Â)
    return clipped_batch(per_token(group_advantages(divided=True)), 0.2, 0.28, [1 / 10] * 4)


def gspo():
    # s_i = (π(y)/π_old(y))^(1/|y|);  1/G Σ_i min(s_i Â_i, clip(s_i, 1 − 3e-4, 1 + 4e-4) Â_i)
    losses, gradients = [], []
    for a, new, old, n in zip(group_advantages(divided=True), NEW, OLD, LENGTHS, strict=True):
        s = np.exp((new - old).sum() / n)
        loss, by_log_s = clipped(s, a, 3e-4, 4e-4)
        losses.append(np.full(n, loss / n))  # one loss per answer, spread over its tokens
        gradients.append(np.full(n, by_log_s / n))  # ∂ log s / ∂ log π_t = 1/|y|
    return losses, gradients, [1 / 4] * 4


def cispo():
    # 1/Σ|o_i| Σ_i Σ_t sg(min(r, 1 + 4)) Â log π;  no lower bound
    losses, gradients = [], []
    for a, new, old in zip(group_advantages(divided=True), NEW, OLD, strict=True):
        weight = np.minimum(np.exp(new - old), 5.0)
        losses.append(-weight * a * new)
        gradients.append(-weight * a)
    return losses, gradients, [1 / 10] * 4


PAPERS = [
    reinforce,
    rloo,
    remax,
    ppo,
    ppo_clip,
    reinforce_pp,
    reinforce_pp_baseline,
    grpo,
    grpo_process,
    dr_grpo,
    dapo,
    gspo,
    cispo,
]


def test_no_row_is_without_its_formula():
    assert {paper.__name__ for paper in PAPERS} == set(ALGORITHMS)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.__name__)
def test_the_row_is_the_papers_formula(paper):
    assert_formula(ALGORITHMS[paper.__name__], paper())


def dual_clip():
    # DAPO's, and for Â < 0 at most −2 Â:  the last answers' tokens with r > 2 lose their gradient
    advantages = per_token(group_advantages(divided=True))
    losses, gradients, weights = dapo()
    for s, (new, old, advantage) in enumerate(zip(NEW, OLD, advantages, strict=True)):
        held = (advantage < 0) & (np.exp(new - old) > 1.4)
        losses[s] = np.where(held, -1.4 * advantage, losses[s])
        gradients[s] = np.where(held, 0.0, gradients[s])
    return losses, gradients, weights


def straight_through():
    # GRPO's loss, with β log π/π_ref as the KL's gradient
    losses, _, weights = grpo()
    gradients = [
        -a + 0.04 * (new - ref) for a, new, ref in zip(group_advantages(divided=True), NEW, REF, strict=True)
    ]
    return losses, gradients, weights


def weighted_k3():
    # DAPO's with 0.04 r (π_ref/π − log π_ref/π − 1): its derivative is 0.04 r (k3 + 1 − π_ref/π)
    losses, gradients, weights = dapo()
    for s, (new, old, ref) in enumerate(zip(NEW, OLD, REF, strict=True)):
        r, x = np.exp(new - old), ref - new
        k3 = np.exp(x) - x - 1
        losses[s] = losses[s] + 0.04 * r * k3
        gradients[s] = gradients[s] + 0.04 * r * (k3 + 1 - np.exp(x))
    return losses, gradients, weights


VARIANTS = {
    "dual clip": (replace(DAPO, dual_clip=1.4), dual_clip),
    "k3+": (replace(GRPO, kl_estimator="k3+"), straight_through),
    "k3_weighted": (replace(DAPO, kl="loss", kl_coef=0.04, kl_estimator="k3_weighted"), weighted_k3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_part_is_its_papers_formula(name):
    algorithm, formula = VARIANTS[name]
    assert_formula(algorithm, formula())


def test_the_dual_clip_holds_something_here():
    assert any(not np.array_equal(one, two) for one, two in zip(dual_clip()[1], dapo()[1], strict=True))


def assert_formula(algorithm, formula):
    loss, gradients = ours(algorithm)
    per_token_loss, per_token_gradient, weights = formula
    expected = sum(w * row.sum() for w, row in zip(weights, per_token_loss, strict=True))
    # Advantages and weights are float32 (and 1e-6 is added to a deviation): seven digits, less one.
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for s, (gradient, w) in enumerate(zip(per_token_gradient, weights, strict=True)):
        np.testing.assert_allclose(gradients[s], w * gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("far", [100.0, -100.0])
@pytest.mark.parametrize("name", [*ALGORITHMS, *VARIANTS])
def test_a_policy_that_has_gone_far_astray_gets_finite_gradients(name, far, monkeypatch):
    """exp(100) is infinite in float32's range, and infinity times 0 is NaN."""
    algorithm = ALGORITHMS[name] if name in ALGORITHMS else VARIANTS[name][0]
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "OLD", [new - far for new in NEW])
    monkeypatch.setattr(module, "REF", [new + far for new in NEW])
    monkeypatch.setattr(torch.Tensor, "double", torch.Tensor.float)
    loss, gradients = ours(algorithm)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_batch_meets_every_kind_of_clipping():
    """The golden numbers would not notice a wrong ε on a batch that never reaches it."""
    advantages = per_token(group_advantages(divided=True))
    hit = set()
    for new, old, advantage in zip(NEW, OLD, advantages, strict=True):
        for n, o, a in zip(new, old, advantage, strict=True):
            r = np.exp(n - o)
            hit |= {("high", a > 0)} if r > 1.28 else {("low", a > 0)} if r < 0.8 else set()
    assert hit == {("high", True), ("low", True), ("low", False), ("high", False)}
    assert max(np.exp(n - o).max() for n, o in zip(NEW, OLD, strict=True)) > 5  # CISPO's bound too


def test_where_the_first_loss_is_zero():
    zero = {name for name, algorithm in ALGORITHMS.items() if algorithm.first_loss_is_zero}
    assert zero == {"grpo", "gspo"}
    for algorithm in (GRPO, replace(GSPO, minibatches=1), replace(DAPO, minibatches=1)):
        on_policy = replace(algorithm, kl="none", kl_coef=0.0)
        assert (abs(ours(on_policy)[0]) < 1e-6) == algorithm.first_loss_is_zero


def test_several_updates_are_off_policy_and_one_is_not():
    on_policy = {name for name, algorithm in ALGORITHMS.items() if algorithm.is_on_policy}
    assert on_policy == {"reinforce", "rloo", "remax", "grpo", "grpo_process", "dr_grpo"}


# ---------------------------------------------------------------------- choices that contradict each other

WRONG = {
    "group_size must be at least 2": {"group_size": 1},
    "scale group_std needs baseline group_mean": {"baseline": "leave_one_out"},
    "credit to_go needs a baseline per token": {"credit": "to_go", "scale": "none"},
    "clips a ratio": {"ratio": "none"},
    "clip_low must be from 0 to 1, and clip_high must not be negative": {"clip_low": -0.1},
    "scale batch_std centres the advantages itself": {"baseline": "batch_mean", "scale": "batch_std"},
    "kl_coef must not be negative": {"kl_coef": -1.0},
    "minibatches must be at least 1": {"minibatches": 0},
    "kl and kl_coef go together": {"kl_coef": 0.0, "kl": "loss"},
    "kl_target must be above 0": {"kl_target": 0.0},
    "use k1 (unbiased) or k3": {"kl": "reward", "kl_estimator": "k2"},
    "k1's is 0 on average": {"kl_estimator": "k1"},
    "kl in the reward is the estimate's value": {"kl": "reward", "kl_estimator": "k3+"},
    "dual_clip must be above 1": {"dual_clip": 1.0},
    "max_approx_kl must be above 0": {"max_approx_kl": 0.0},
    "kl_coef: must be a finite number": {"kl_coef": float("nan")},
    "clip_high: must be a finite number": {"clip_high": float("inf")},
    "max_sampling_factor must be at least 1": {"dynamic_sampling": True, "max_sampling_factor": 0.5},
    "group_size: must be a whole number": {"group_size": "many"},
    "no such part. Did you mean 'clip_high'?": {"clip_hihg": 0.3},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_contradiction_is_an_error_that_says_why(message):
    with pytest.raises(ConfigError) as error:
        customised(GRPO, **WRONG[message])
    assert message in str(error.value)
    assert "algorithm" in str(error.value)


def test_more_contradictions():
    with pytest.raises(ConfigError, match="set ratio to token, sequence or trajectory"):
        customised(REINFORCE, epochs=2)
    with pytest.raises(ConfigError, match="kl_target adapts kl_coef, but kl is none"):
        customised(REINFORCE, kl_target=0.1)
    with pytest.raises(ConfigError, match="dual_clip bounds the clipped surrogate"):
        customised(CISPO, dual_clip=3.0)
    with pytest.raises(ConfigError, match="dynamic_sampling drops groups"):
        customised(REINFORCE, dynamic_sampling=True)


WITHOUT_EFFECT = [
    (GRPO, {"clip_high": 0.3}, "one update per round"),
    (REINFORCE, {"clip_low": 0.1}, "does not clip"),
    (GRPO, {"dual_clip": 3.0}, "one update per round"),
    (GRPO, {"max_approx_kl": 0.1}, "one update per round"),
    (REINFORCE, {"baseline_value": 0.5}, "baseline is running_mean"),
    (DAPO, {"kl_estimator": "k2"}, "kl is none"),
    (GRPO, {"max_sampling_factor": 2.0}, "dynamic_sampling is off"),
    (GRPO, {"kl_coef": 0.0, "kl_estimator": "k2"}, "kl is none"),
]


@pytest.mark.parametrize(("base", "parts", "reason"), WITHOUT_EFFECT)
def test_a_choice_without_effect_is_an_error(base, parts, reason):
    with pytest.raises(ConfigError, match="would have no effect") as error:
        customised(base, **parts)
    assert reason in str(error.value)


def test_customised():
    assert customised(GRPO) == GRPO
    assert customised(GRPO, kl_coef=0.0) == replace(GRPO, kl="none", kl_coef=0.0)
    assert customised(PPO, kl="none") == replace(PPO, kl="none", kl_coef=0.0)
    assert customised(GRPO, minibatches=2, clip_high=0.28).clip_high == 0.28
    assert customised(RLOO, group_size=2).needs_reference


def test_the_advantages_of_a_batch_are_those_of_the_formula():
    batch = Batch.of_groups([group((10,), [(1,) * 3, (2,)], REWARDS[:2])])
    assert batch.columns["token_reward"].tolist() == [[0.0, 0.0, 1.0], [0.25, 0.0, 0.0]]
    advantage_ST = credit(batch, GRPO).columns["advantage"]
    # mean 0.625, deviation 0.375·√2: ± 1/√2
    assert_close(advantage_ST, torch.tensor([[2**-0.5] * 3, [-(2**-0.5), 0.0, 0.0]]), rtol=1e-5, atol=1e-6)
