"""Master weights, clipping, schedules, and what happens when a gradient is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_task import group, policy
from torch.testing import assert_close

from ventaja.errors import RunError
from ventaja.models import Policy, TokenScores
from ventaja.training.batch import Batch
from ventaja.training.config import OptimiserConfig
from ventaja.training.learner import Learner, Term
from ventaja.training.objective import supervised_objective
from ventaja.training.optimiser import Optimiser

SEED = 4


def make_learner(*, compute=torch.float32, total_updates=100, **settings):
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, **settings}
    return Learner(
        policy(seed=SEED), OptimiserConfig(**settings), compute=compute, total_updates=total_updates
    )


def make(**settings) -> tuple[Policy, Optimiser]:
    learner = make_learner(**settings)
    return learner.network, learner.optimiser


def give(optimiser, gradients):
    """Hand the same gradients over the way that backward does: into the module, in its precision."""
    for name, parameter in optimiser.parameters.items():
        # 0·p + g·p has the gradient g, and runs the hooks
        (parameter * gradients[name].to(parameter.dtype)).sum().backward()


def random_gradients(optimiser, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (scale * torch.randn(p.shape, generator=generator)).bfloat16().float()
        for name, p in optimiser.parameters.items()
    }


def plain_adamw(model, *, max_grad_norm):
    decayed = [p for _, p in model.parameters() if p.ndim >= 2]
    others = [p for _, p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-3, fused=True)

    def step(gradients):
        """Returns AdamW's first moments after it, which show the gradients' own size."""
        for name, parameter in model.parameters():
            parameter.grad = gradients[name].clone()
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for _, p in model.parameters()], max_grad_norm)
        adamw.step()
        return {name: adamw.state[p]["exp_avg"] for name, p in model.parameters()}

    return step


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_masters_are_plain_adamw_bit_for_bit(compute):
    _, optimiser = make(compute=compute, max_grad_norm=None)
    plain = policy(seed=SEED)
    step = plain_adamw(plain, max_grad_norm=None)
    for seed in range(3):  # gradients that bfloat16 holds exactly, so that both see the same
        gradients = random_gradients(optimiser, seed)
        give(optimiser, gradients)
        optimiser.step()
        step(gradients)
    for name, parameter in plain.parameters():
        assert torch.equal(optimiser.masters[name], parameter), name
        assert optimiser.parameters[name].dtype == compute
        assert torch.equal(optimiser.parameters[name], parameter.to(compute)), name


def test_clipping_is_torchs():
    _, optimiser = make(max_grad_norm=0.5)
    plain = policy(seed=SEED)
    step = plain_adamw(plain, max_grad_norm=0.5)
    for seed, scale in enumerate((1e-2, 1e-4)):  # just above the limit, and far below it
        gradients = random_gradients(optimiser, seed, scale)
        give(optimiser, gradients)
        norm = optimiser.step()
        squares = sum(float(g.square().sum()) for g in gradients.values())
        assert norm == pytest.approx(math.sqrt(squares), rel=1e-5)
        assert (norm > 0.5) == (seed == 0)
        moments = step(gradients)
    state = optimiser.state()
    for name, moment in moments.items():
        # both multiply by limit / (norm + 1e-6), one in double precision and one in float32
        assert_close(state[f"exp_avg/{name}"], moment, rtol=1e-5, atol=1e-9)


def test_micro_batches_add_up_in_float32():
    """1 + 2⁻¹² four hundred times: in bfloat16 the sum would stay at 1."""
    _, optimiser = make(compute=torch.bfloat16, max_grad_norm=None)
    name = next(iter(optimiser.parameters))
    parameter = optimiser.parameters[name]
    for value in (1.0, *[2.0**-12] * 400):
        (parameter * torch.full_like(parameter, value)).sum().backward()
    assert parameter.grad is None
    assert_close(optimiser.masters[name].grad, torch.full(parameter.shape, 1 + 400 * 2.0**-12))


def test_updates_below_the_resolution_of_bfloat16_accumulate():
    model, optimiser = make(compute=torch.bfloat16, learning_rate=1e-5, weight_decay=0.0)
    name = next(n for n, p in optimiser.parameters.items() if p.ndim < 2)  # a norm: all ones
    assert (optimiser.parameters[name] == 1).all()
    ones = {n: torch.ones_like(p) for n, p in optimiser.parameters.items()}
    give(optimiser, ones)
    optimiser.step()
    assert (optimiser.parameters[name] == 1).all()  # 1 − 1e-5 rounds to 1 …
    for _ in range(499):
        give(optimiser, ones)
        optimiser.step()
    # … but 500 of them are 5e-3, and bfloat16 below 1 has steps of 2⁻⁸ ≈ 3.9e-3
    assert_close(optimiser.masters[name], torch.full((16,), 1 - 5e-3), rtol=0.0, atol=1e-4)
    assert (optimiser.parameters[name] == 1 - 2.0**-8).all()
    assert dict(model.parameters())[name] is optimiser.parameters[name]


def test_buffers_stay_exact():
    model, _ = make(compute=torch.bfloat16)
    buffers = dict(model.module.named_buffers())
    assert buffers
    assert all(buffer.dtype == torch.float32 for buffer in buffers.values() if buffer.is_floating_point())


# ---------------------------------------------------------------------- learning rates


def rates(count=8, **settings):
    _, optimiser = make(learning_rate=1.0, total_updates=count, **settings)
    found = []
    for _ in range(count):
        found.append(optimiser.learning_rate)
        optimiser.updates += 1
    return found


def test_schedules_by_hand():
    assert rates(3) == [1.0, 1.0, 1.0]
    assert rates(4, warmup_updates=4) == [0.25, 0.5, 0.75, 1.0]
    assert rates(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(6, schedule="linear", warmup_updates=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert rates(4, schedule="cosine") == pytest.approx(cosine)


def test_the_schedule_passes_over_steps_that_were_not_made():
    _, optimiser = make(learning_rate=1.0, schedule="linear", total_updates=4)
    optimiser.updates, optimiser.unmade = 1, 2
    assert optimiser.learning_rate == 0.25  # the last of four places, though it is the second step
    _, warm = make(learning_rate=1.0, warmup_updates=4)
    warm.updates, warm.unmade = 1, 2
    assert warm.learning_rate == 0.5  # a warm-up is about steps that were made


def test_a_run_longer_than_planned_has_rate_0():
    _, optimiser = make(schedule="linear", total_updates=2)
    optimiser.updates = 5
    assert optimiser.learning_rate == 0.0


# ---------------------------------------------------------------------- not finite


def snapshot(optimiser):
    weights = {name: p.detach().clone() for name, p in optimiser.masters.items()}
    return weights, {name: t.clone() for name, t in optimiser.state().items()}


def assert_unchanged(optimiser, before):
    weights, state = before
    assert all(torch.equal(weights[name], p) for name, p in optimiser.masters.items())
    now = optimiser.state()
    assert state.keys() == now.keys()
    assert all(torch.equal(state[name], value) for name, value in now.items())
    assert all(p.grad is None for p in optimiser.masters.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    _, optimiser = make()
    give(optimiser, random_gradients(optimiser, 0))
    optimiser.step()
    before = snapshot(optimiser)
    gradients = random_gradients(optimiser, 1)
    next(iter(gradients.values()))[0] = bad
    give(optimiser, gradients)
    assert not math.isfinite(optimiser.step())
    assert_unchanged(optimiser, before)
    give(optimiser, random_gradients(optimiser, 1))
    assert math.isfinite(optimiser.step())  # the bad gradient is forgotten
    assert optimiser.updates == 2


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_update_that_is_not_finite_raises_and_changes_nothing(where):
    learner = make_learner()
    optimiser = learner.optimiser
    batch = Batch.of_groups([group((5, 6), [(7, 8), (9,)], [1.0, 0.0])])
    rows = batch.rows(range(2), max_tokens=1)
    weight_ST = torch.full((2, 2), 0.5)
    good = supervised_objective(batch)

    def bad(row, scores: TokenScores):
        loss_M, stats = good(row, scores)
        if where == "loss":  # a value that is not finite, with a gradient that is
            return loss_M + torch.tensor(math.inf), stats
        return loss_M * torch.tensor(math.nan), stats

    learner.update(lambda _: rows, [Term(good, weight_ST)])
    before = snapshot(optimiser)
    with pytest.raises(RunError, match=r"update 2: .* not finite, so nothing was updated") as error:
        learner.update(lambda _: rows, [Term(bad, weight_ST)])
    assert "optimiser.learning_rate" in str(error.value)
    assert_unchanged(optimiser, before)


def test_the_report_of_an_update():
    learner = make_learner(max_grad_norm=None)
    batch = Batch.of_groups([group((5, 6), [(7, 8), (9,)], [1.0, 0.0])])
    rows = batch.rows(range(2), max_tokens=1)
    with torch.no_grad():
        logprobs = torch.cat([learner.network.score(row.packed).logprob_M for row in rows])
    report = learner.update(lambda _: rows, [Term(supervised_objective(batch), torch.full((2, 2), 0.5))])
    assert report.loss == pytest.approx(-0.5 * float(logprobs.sum()), rel=1e-5)
    assert report.tokens == 3
    assert report.learning_rate == 1e-3
    assert learner.updates == 1


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_state_goes_round(compute):
    _, one = make(compute=compute)
    for seed in range(2):
        give(one, random_gradients(one, seed))
        one.step()
    _, two = make(compute=compute)
    for name, master in two.masters.items():
        master.data.copy_(one.masters[name].detach())
    two.load_state(one.state())
    assert two.updates == 2
    for optimiser in (one, two):
        give(optimiser, random_gradients(optimiser, 9))
        optimiser.step()
    for name in one.masters:
        assert torch.equal(one.masters[name], two.masters[name])
    left, right = one.state(), two.state()
    assert left.keys() == right.keys()
    # updates; step and two moments of each; where each started, if it is rounded
    assert len(left) == 1 + (3 if compute == torch.float32 else 4) * len(one.masters)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_loaded_state_is_a_copy():
    _, one = make()
    give(one, random_gradients(one, 0))
    one.step()
    _, two = make()
    two.load_state(one.state())
    before = {name: value.clone() for name, value in one.state().items()}
    give(two, random_gradients(two, 1))
    two.step()
    assert all(torch.equal(before[name], value) for name, value in one.state().items())


def test_a_parameter_without_a_gradient_goes_on_with_its_momentum_if_another_has_one():
    _, one = make()
    _, two = make()
    for optimiser in (one, two):
        give(optimiser, random_gradients(optimiser, 0))
        optimiser.step()
    gradients = random_gradients(one, 1)
    unused = next(iter(gradients))
    gradients[unused] = torch.zeros_like(gradients[unused])
    give(one, gradients)
    for name, parameter in two.parameters.items():
        if name != unused:
            (parameter * gradients[name]).sum().backward()
    assert one.step() == two.step() > 0
    for name in one.masters:
        assert torch.equal(one.masters[name], two.masters[name])


def test_without_any_gradient_there_is_no_step():
    """Momentum alone would move the weights."""
    _, optimiser = make()
    give(optimiser, random_gradients(optimiser, 0))
    optimiser.step()
    before = snapshot(optimiser)
    assert optimiser.step() == 0.0
    assert_unchanged(optimiser, before)
    assert optimiser.updates == 1


def test_memory_that_runs_out_in_the_middle_of_an_update_leaves_no_trace():
    batch = Batch.of_groups([group((5, 6), [(7, 8), (9,)], [1.0, 0.0]), group((4,), [(3, 8, 7)], [1.0])])
    plain = supervised_objective(batch)
    weight_ST, snapshots, calls = torch.full((3, 3), 0.5), [], 0

    def runs_out_once(row, scores):  # after the first row's gradients were added up
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(row, scores)

    for objective, tokens in ((plain, 2), (runs_out_once, 4)):
        learner = make_learner(max_tokens=tokens)
        learner.update(lambda n: batch.rows(range(3), max_tokens=n), [Term(objective, weight_ST)])
        snapshots.append(snapshot(learner.optimiser))
    assert calls > 3
    for clean, after_trouble in zip(*([*w.values(), *o.values()] for w, o in snapshots), strict=True):
        assert torch.equal(clean, after_trouble)
