"""The loop: prompts → groups → rewards → credit → minibatches → step → engine."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from ventaja.environments import Environment
from ventaja.errors import RolloutError
from ventaja.rollouts import Engine, Interrupted, load_weights, release
from ventaja.tracking import Run, RunFolder, loading
from ventaja.training.batch import Batch
from ventaja.training.clock import Clock
from ventaja.training.collecting import collect
from ventaja.training.config import RlConfig
from ventaja.training.credit import credit
from ventaja.training.critic import value_metrics
from ventaja.training.metrics import collected_metrics, credit_metrics, round_metrics
from ventaja.training.minibatches import minibatches
from ventaja.training.round import Round
from ventaja.training.row_budget import out_of_memory_explained
from ventaja.training.setup import RlRun
from ventaja.training.update import Stage, update

LESS_MEMORY = (
    "Sample fewer answers at once (engine.max_batch) or shorter ones (sampling.max_tokens), take fewer tokens at once "
    "(optimiser.max_tokens), or train adapters (model.lora) instead of all weights."
)

OnRound = Callable[[Run, int], None]


def train_rl(
    config: RlConfig,
    *,
    engine: Engine | None = None,
    environment: Environment | None = None,
    on_round: OnRound | None = None,
    command: str = "",
    console: Console | None = None,
) -> Run:
    """Train as the config says and return the run.

    `engine` and `environment` stand in for those of the config. `on_round(run, round)` is called after each round's
    record is written, with the run to read and the round's number (from 1). A round that a resumed run plays again is
    told of again. What it raises ends the run, as any error does.

    Raises VentajaError with what to do next. An error of any kind, Ctrl-C (also twice) or SIGTERM in the middle first
    writes a checkpoint to go on from, once something was trained.
    """
    with RunFolder(config.run.folder).locked(command=command):
        with loading(config.model.name, console):
            run = RlRun.of(config, engine=engine, environment=environment, command=command, console=console)
        session = run.session
        with (
            session.running(),
            session.nothing_lost(run.save, is_whole=run.is_whole),
            out_of_memory_explained(LESS_MEMORY),
        ):
            try:
                play(run, on_round)
            except Interrupted:  # what was being sampled is given up; a resumed run samples it again
                if session.interrupts.received is None:
                    raise RolloutError(
                        "the engine or the environment raised Interrupted, and nobody had asked it to stop."
                    ) from None
                run.save()
                session.stop()
    return Run(config.run.folder)


def play(run: RlRun, on_round: OnRound | None = None) -> None:
    """The rounds that are still to do."""
    config, algorithm, policy, state, session = run.config, run.algorithm, run.policy, run.state, run.session
    while state.rounds_done < config.run.rounds:
        number = state.rounds_done + 1
        round_ = state.round = state.round or begin(run, number)  # a resumed run may be in the middle of one
        clock = Clock(round_.seconds, show=session.progress.phase)
        for minibatch in round_.remaining(
            minibatches(round_.batch, algorithm, seed=run.seed(number)), algorithm
        ):
            with clock("training"):
                report = update(
                    run.learners, minibatch, algorithm,
                    coefficients=state.coefficients, sampling=config.sampling,
                    stage=Stage(moved=round_.moved, policy_moves=round_.policy_moves),
                )  # fmt: skip
            round_.reports.append(report)
            run.keep_schedule()
            run.notes.first_loss(policy, report)
            if (report.stepped or report.critic_stepped) and len(
                round_.reports
            ) < algorithm.updates_per_round:
                session.pause(run.save)
        load_weights(run.engine, policy.network, version=policy.updates)
        metrics = round_metrics(round_, algorithm) | run.measured(number) | policy.metrics()
        metrics["total_updates"] = float(session.steps)
        best = session.is_best(metrics)
        if algorithm.needs_reference:
            metrics["kl_coef"] = state.kl_coef
        if algorithm.entropy_target is not None:
            metrics["entropy_coef"] = state.entropy_coef
        round_.write_rollouts(session.folder.rollout_path(number))
        session.record(number, metrics)
        run.notes.after(round_, metrics)
        state.over(number, metrics, algorithm)
        run.keep_schedule()
        if on_round is not None:
            on_round(Run(session.folder.path), number)
        session.pause(run.save, last=number == config.run.rounds, best=best)


def begin(run: RlRun, number: int) -> Round:
    """Sample, judge, and give every token its advantage."""
    config, algorithm, state, critic = run.config, run.algorithm, run.state, run.learners.critic
    seconds: dict[str, float] = {}
    clock = Clock(seconds, show=run.session.progress.phase)
    found = collect(
        run.environment, run.asking(clock), run.prompts,
        taken=state.prompts_taken, config=config, algorithm=algorithm,
    )  # fmt: skip
    release(run.engine)
    with clock("training"):
        samples = Batch.of_groups(found.kept, run.truncation)
        if found.greedy:
            samples = samples.with_columns(greedy_reward=samples.per_group(found.greedy))
        scored = run.scorer.for_credit(samples, seed=run.seed(number))
        credited = credit(
            scored, algorithm,
            running=state.running, kl_coef=state.kl_coef,
            monte_carlo=critic is not None and critic.learns_alone(number, is_ready=state.critic_is_ready),
        )  # fmt: skip
        batch = run.scorer.for_updates(credited, seed=run.seed(number))
    sampled = collected_metrics(found, algorithm, full_marks=run.full_marks)
    run.notes.nothing_to_compare(number, samples, sampled, groups=len(found.groups))
    sampled |= credit_metrics(batch, algorithm, sampled=sampled)
    policy_moves = True
    if critic is not None:
        sampled |= value_metrics(batch)
        state.critic_is_ready = state.critic_is_ready or critic.is_good(sampled)
        policy_moves = state.critic_is_ready and not critic.warms_up(number)
        run.notes.critic_alone(number, policy_moves)
        if not policy_moves:
            sampled["frac_tokens_trained"] = 0.0
    state.prompts_taken = found.taken
    return Round(
        number=number, groups=found.kept, batch=batch, sampled=sampled, seconds=seconds, policy_moves=policy_moves
    )  # fmt: skip
