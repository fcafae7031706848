"""However an update is cut, ordered or padded, its loss and its gradients are the same: for every algorithm."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_task import completion, policy
from torch.testing import assert_close

from ventaja.models import Policy, Wanted
from ventaja.records import Group, Judgement, Prompt, StopReason, Trajectory
from ventaja.training import ALGORITHMS, Algorithm
from ventaja.training.algorithms import GRPO, REINFORCE
from ventaja.training.batch import Batch, scores_table, scores_tables
from ventaja.training.config import CriticConfig
from ventaja.training.credit import RunningMean, credit
from ventaja.training.critic import value_term
from ventaja.training.objective import PolicyObjective
from ventaja.training.update import policy_terms

# Sums of a few dozen float32 numbers in another order: a few units in the seventh digit of the largest.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}


@pytest.fixture(scope="module", params=["fast", "plain"])
def models(request) -> tuple[Policy, Policy, Policy]:
    """The policy, the older one that sampled, and the reference; with and without what makes a CPU fast."""
    made = tuple(policy(seed=seed, cpu=request.param) for seed in (1, 2, 3))
    head = made[0].add_value_head(initial_value=0.3)
    torch.nn.init.normal_(head.module.weight, generator=torch.Generator().manual_seed(1))
    return made


def groups() -> list[Group]:
    """Uneven lengths, an answer of one token, one group of equal rewards and one broken answer."""
    shapes = [(4, [3, 1, 6, 2]), (9, [2, 2, 5, 4]), (2, [1, 7, 3, 3]), (6, [4, 4, 1, 2])]
    rewards = [[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 2.0, None, 1.0], [0.3, -1.0, 0.0, 0.9]]
    generator = torch.Generator().manual_seed(5)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 32, (count,), generator=generator).tolist())

    return [
        Group(
            prompt=Prompt(id=f"p{g}", content="?"),
            prompt_ids=ids(prompt),
            trajectories=tuple(
                Trajectory.of(
                    completion(*ids(length), stop=StopReason.LENGTH if length > 3 else StopReason.EOS)
                )
                for length in lengths
            ),
            judgements=tuple(
                Judgement() if reward is None else Judgement.outcome(reward, length=length)
                for reward, length in zip(row, lengths, strict=True)
            ),
        )
        for g, ((prompt, lengths), row) in enumerate(zip(shapes, rewards, strict=True))
    ]


def prepared(algorithm: Algorithm, models, groups) -> Batch:
    _, older, reference = models
    batch = Batch.of_groups(groups)
    rows = batch.rows(range(batch.sequences), max_tokens=10_000)

    def score(model):
        with torch.no_grad():
            return scores_table(batch, lambda row: model.score(row).logprob_M, rows)

    columns = {"sampler_logprob": score(older)}
    if algorithm.has_critic:
        with torch.no_grad():
            read = lambda row: models[0].read(row, Wanted(value=True))  # noqa: E731
            columns |= scores_tables(
                batch, read, batch.rows(range(batch.sequences), max_tokens=10_000, keep_last="truncated")
            )
        del columns["logprob"]
    if algorithm.baseline == "greedy":
        columns["greedy_reward"] = batch.per_group([0.5] * len(groups))
    if not algorithm.is_on_policy or algorithm.kl == "reward":
        columns["old_logprob"] = score(older)
    if algorithm.needs_reference:
        columns["ref_logprob"] = score(reference)
    return credit(
        batch.with_columns(**columns), algorithm, running=RunningMean(0.3, 2), kl_coef=algorithm.kl_coef
    )


def gradients(algorithm, models, batch, sequences=None, *, max_tokens=10_000, entropy=False):
    """The loss and every parameter's gradient, over rows of at most `max_tokens`."""
    model = models[0]
    model.module.zero_grad()
    model.value_head.module.zero_grad()
    objective = PolicyObjective(algorithm, batch, algorithm.kl_coef)
    terms = policy_terms(
        algorithm, objective, batch.is_action_ST, entropy_coef=algorithm.entropy_coef, max_tokens=8
    )
    if algorithm.has_critic:
        config = CriticConfig(through_trunk=True, loss_weight=2.0, clip=0.1)
        terms.append(value_term(config, batch, batch.is_action_ST))
    wanted = Wanted(
        entropy=entropy,
        value=algorithm.has_critic,
        reference=models[2] if algorithm.kl_estimator == "exact" else None,
    )
    sequences = range(batch.sequences) if sequences is None else sequences
    loss, sums = 0.0, {}
    rows = batch.rows(
        sequences, max_tokens=max_tokens, keep_last="truncated" if algorithm.has_critic else False
    )
    for row in rows:
        scores = model.read(row.packed, wanted)
        row_loss = 0.0
        for term in terms:
            loss_M, stats = term.objective(row, scores)
            row_loss = row_loss + (loss_M * row.pick(term.weight_ST)).sum()
            for name, value in stats.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        row_loss.backward()
        loss += row_loss.item()
    everything = [*model.parameters(), *(model.value_head.parameters() if algorithm.has_critic else [])]
    found = {name: p.grad.clone() for name, p in everything}
    return loss, found, len(rows), sums


def assert_same(one, two):
    assert one[0] == pytest.approx(two[0], rel=1e-4, abs=2e-6)
    for name, gradient in one[1].items():
        assert_close(two[1][name], gradient, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


EVERY = [*ALGORITHMS.values()]
EVERY += [
    replace(GRPO, name="with entropy", entropy_coef=0.1),
    replace(GRPO, name="exact kl", kl_estimator="exact"),
    replace(GRPO, name="first tokens less", ramp_tokens=3, ramp_start=0.1),
    replace(REINFORCE, name="reinforce with a critic", baseline="critic"),
    replace(GRPO, name="trajectory ratio", ratio="trajectory", clip_high=5.0, minibatches=2),
]


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda a: a.name)
def test_cutting_ordering_and_padding_change_nothing(algorithm, models):
    entropy = algorithm.entropy_coef != 0
    batch = prepared(algorithm, models, groups())
    whole = gradients(algorithm, models, batch, entropy=entropy)
    assert whole[2] == 1
    assert max(gradient.abs().max() for gradient in whole[1].values()) > 1e-3  # it says something

    for max_tokens, rows in ((1, batch.sequences), (40, 2)):
        cut = gradients(algorithm, models, batch, max_tokens=max_tokens, entropy=entropy)
        assert cut[2] == rows
        assert_same(whole, cut)
        for name, value in whole[3].items():  # what is reported does not depend on the cut either
            assert cut[3][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name

    order = [14, 3, 0, 7, 1, 2, 13, 12, 4, 11, 5, 6, 10, 9, 8]
    assert_same(whole, gradients(algorithm, models, batch, order, max_tokens=25, entropy=entropy))

    moved = [
        replace(g, trajectories=g.trajectories[::-1], judgements=g.judgements[::-1]) for g in groups()[::-1]
    ]
    other = prepared(algorithm, models, moved)
    assert_same(whole, gradients(algorithm, models, other, entropy=entropy))

    padded = prepared(algorithm, models, groups())
    pad = (0, 5)
    padded = replace(
        padded,
        is_action_ST=torch.nn.functional.pad(padded.is_action_ST, pad),
        columns={
            name: torch.nn.functional.pad(table, pad, value=9.0) for name, table in padded.columns.items()
        },
    )
    assert_same(whole, gradients(algorithm, models, padded, entropy=entropy))


@pytest.mark.parametrize(
    "algorithm", [a for a in EVERY if a.kl != "loss" and not a.has_critic], ids=lambda a: a.name
)
def test_leaving_out_what_has_no_advantage_changes_nothing(algorithm, models):
    batch = prepared(algorithm, models, groups())
    changes = (batch.columns["advantage"] != 0).any(dim=1)
    some = [s for s in range(batch.sequences) if changes[s]]
    if algorithm.baseline == "group_mean":
        assert len(some) < batch.sequences  # the group of equal rewards
    assert_same(gradients(algorithm, models, batch), gradients(algorithm, models, batch, some))


def test_a_wrong_weight_would_be_noticed(models):
    """The mean within a micro-batch, as a careless loop has it, is not invariant: so the test above can fail."""
    batch = prepared(GRPO, models, groups())
    objective = PolicyObjective(GRPO, batch, GRPO.kl_coef)

    def careless(max_tokens):
        rows = batch.rows(range(batch.sequences), max_tokens=max_tokens)
        means = [objective(row, models[0].score(row.packed))[0].mean().item() for row in rows]
        return sum(means) / len(means)

    assert careless(20) != pytest.approx(careless(10_000), rel=1e-2)
