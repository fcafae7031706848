"""The loop: prompts → groups → rewards → credit → weights → packed rows → step → engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ventaja.environments import Environment, Reward, SingleTurn
from ventaja.errors import ConfigError, VentajaError
from ventaja.functional import kl_k1, kl_k3
from ventaja.models import PackedRow, Policy
from ventaja.records import Group, Prompt, StopReason, write_groups
from ventaja.rollouts import Engine, Interrupted, LocalEngine, sample_groups
from ventaja.tracking import RL_COLUMNS, Run
from ventaja.training.batch import Batch, Row, scores_table
from ventaja.training.checkpoint import Checkpoint
from ventaja.training.config import GENERATED, RlConfig, SourceConfig
from ventaja.training.credit import RunningMean, assign_advantages, reward_table
from ventaja.training.data import prompts_of, training_prompts, unseen
from ventaja.training.evaluation import load_rewards, measure
from ventaja.training.metrics import rollout_metrics, update_metrics
from ventaja.training.objective import PolicyObjective, token_weights
from ventaja.training.prompts import render_all, shuffled
from ventaja.training.row_budget import Cut
from ventaja.training.session import Session, load
from ventaja.training.step import UpdateReport, update

SAMPLING, MINIBATCHES = 0x5A, 0x3B
"""Names of random streams, so that none is used twice."""


@dataclass
class Round:
    """One round in progress: its samples, their advantages, and the updates made on them so far."""

    number: int
    groups: list[Group]
    batch: Batch
    sampled: dict[str, float]
    """Metrics of all that was sampled, groups that dynamic sampling replaced included."""
    reports: list[UpdateReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class State:
    """What the rest of the run depends on, besides weights, optimiser and the round in progress."""

    rounds_done: int = 0
    prompts_taken: int = 0
    running: RunningMean = field(default_factory=RunningMean)
    kl_coef: float = 0.0


def train_rl(
    config: RlConfig,
    *,
    command: str = "",
    prompts: Sequence[Prompt] | None = None,
    rewards: Sequence[Reward] | None = None,
    console: Console | None = None,
) -> Run:
    """Train as the config says and return the run.

    `prompts` and `rewards` stand in for what the config would load. Raises VentajaError with what
    to do next; an error, Ctrl-C or SIGTERM in the middle first writes a checkpoint to go on from.
    """
    loop = RlLoop(config, command=command, prompts=prompts, rewards=rewards, console=console)
    with loop.session.running(), loop.nothing_lost():
        for number in loop.rounds():
            round_ = loop.round_in_progress or loop.begin(number)
            for index in loop.updates(round_):
                loop.update(round_, index)
            loop.finish(round_)
    return Run(config.run.folder)


class RlLoop:
    """Everything that one run holds, and the steps of its rounds."""

    def __init__(
        self,
        config: RlConfig,
        *,
        command: str,
        prompts: Sequence[Prompt] | None,
        rewards: Sequence[Reward] | None,
        console: Console | None,
    ) -> None:
        self.config = config
        self.algorithm = config.algorithm.resolve()
        self.prompts_per_round = config.run.completions_per_round // self.algorithm.group_size
        rewards = rewards or load_rewards(config.reward, config.data.source)
        prompts = prompts if prompts is not None else training_prompts(config.data)
        held_out = _held_out(config)
        prompts = unseen(prompts, held_out)
        if held_out and not prompts:
            raise ConfigError("eval: every prompt is also held out, so none is left to train on.")
        self.environment: Environment = SingleTurn(
            prompts=prompts,
            rewards=rewards,
            timeout=config.reward.timeout,
            max_broken_fraction=config.reward.max_broken_fraction,
        )
        self.session = Session(config, command=command)
        self.policy = self.session.policy
        self.reference = self._load_reference() if self.algorithm.needs_reference else None
        self.session.make_optimiser(total_updates=config.run.rounds * self.algorithm.updates_per_round)
        self.optimiser = self.session.optimiser
        limit = config.data.max_prompt_tokens
        self.prompts, self.prompt_ids, left_out = render_all(
            self.policy, self.environment.prompts, max_prompt_tokens=limit
        )
        self.held_out = render_all(self.policy, held_out, max_prompt_tokens=limit)[:2] if held_out else None
        self.session.check_same_rows(self.prompt_ids)
        self.state = State(kl_coef=self.algorithm.kl_coef)
        self.round_in_progress: Round | None = None
        if self.session.checkpoint:
            self._restore(self.session.checkpoint)
        self.engine: Engine = LocalEngine(self.policy, max_batch=config.run.max_batch)
        self.engine.load(self.policy, version=self.optimiser.updates)
        self.session.start(
            done=self.state.rounds_done,
            total=config.run.rounds,
            columns=RL_COLUMNS,
            unit="round",
            console=console,
        )
        self.progress = self.session.progress
        if left_out:
            self.progress.note(f"{left_out} prompts are longer than data.max_prompt_tokens and are left out.")

    # The story of a round -------------------------------------------------------------------------------

    def rounds(self) -> Iterator[int]:
        """The numbers of the rounds still to do, from 1."""
        while self.state.rounds_done < self.config.run.rounds:
            yield self.state.rounds_done + 1

    def begin(self, number: int) -> Round:
        """Sample, judge, and give every token its advantage."""
        seconds: dict[str, float] = {}
        taken = self.state.prompts_taken
        try:
            groups, replaced = self._collect(seconds)
            sampled = rollout_metrics([*groups, *replaced])
            self.progress.phase("training")
            with _timed(seconds, "training"):
                batch = self._credit(number, groups, sampled)
        except Interrupted:
            self.state.prompts_taken = taken
            self._checkpoint()
            self.session.stop()
        except BaseException:
            self.state.prompts_taken = taken
            raise
        self.round_in_progress = Round(number, groups, batch, sampled, seconds=seconds)
        return self.round_in_progress

    def updates(self, round_: Round) -> Iterator[int]:
        """Indices of the updates still to make on this round's samples."""
        while len(round_.reports) < self.algorithm.updates_per_round:
            yield len(round_.reports)

    def update(self, round_: Round, index: int) -> None:
        """One optimiser step on one minibatch, then a checkpoint if one is due."""
        algorithm, batch = self.algorithm, round_.batch
        members = self._minibatch(round_.number, batch, index)
        if not members:  # fewer groups than minibatches: nothing to learn from, and no step without it
            round_.reports.append(UpdateReport.empty(self.optimiser.learning_rate))
            return
        with _timed(round_.seconds, "training"):
            is_action = torch.zeros_like(batch.is_action_ST)
            is_action[members] = batch.is_action_ST[members]
            report = update(
                self.policy,
                self.optimiser,
                self.session.budget,
                lambda tokens: self._rows(batch, members, tokens),
                PolicyObjective(algorithm, batch, self.state.kl_coef),
                token_weights(algorithm, is_action, max_tokens=self.config.sampling.max_tokens),
                temperature=self.config.sampling.temperature,
                entropy=algorithm.entropy_coef != 0,
            )
        self.engine.load(self.policy, version=self.optimiser.updates)
        round_.reports.append(report)
        self._explain_zero_loss(report)
        if len(round_.reports) < algorithm.updates_per_round:
            self.session.pause(self._checkpoint)

    def finish(self, round_: Round) -> None:
        """Record the round, adapt what adapts, and checkpoint if one is due."""
        metrics = round_.sampled | update_metrics(round_.reports)
        if self._is_measured(round_.number):
            metrics |= self._measure()
        if self.reference is not None:
            metrics["kl_coef"] = self.state.kl_coef
        tokens = metrics["completions/mean_length"] * metrics["samples"]
        metrics |= {f"seconds/{name}": value for name, value in round_.seconds.items()}
        metrics["tokens_per_second"] = tokens / sum(round_.seconds.values())
        self._write_rollouts(round_)
        self.session.record(round_.number, metrics)
        self._show_sample(round_.groups)
        if "kl" in metrics:
            self._adapt_kl(metrics["kl"])
        if "reward" in metrics:
            self.state.running = self.state.running.update(metrics["reward"])
        self.state.rounds_done = round_.number
        self.round_in_progress = None
        self.session.pause(self._checkpoint, last=round_.number == self.config.run.rounds)

    @contextmanager
    def nothing_lost(self) -> Iterator[None]:
        """If an error ends the run, write a checkpoint of the last state that was whole, then let it pass on."""
        try:
            yield
        except VentajaError as error:
            if self.optimiser.updates == 0:
                raise
            try:
                self._checkpoint()
                self.progress.note(
                    "The work so far is in a checkpoint. Mend what is wrong, then go on with "
                    f"--run.folder {self.session.folder.path} --run.resume true"
                )
            except VentajaError as second:
                self.progress.note(f"No checkpoint could be written: {second}")
            raise error

    # Their parts ----------------------------------------------------------------------------------------

    def _collect(self, seconds: dict[str, float]) -> tuple[list[Group], list[Group]]:
        """Judged groups for one round, and those that dynamic sampling replaced for their equal rewards."""
        kept: list[Group] = []
        wanted = self.prompts_per_round
        budget = wanted
        if self.algorithm.dynamic_sampling:
            budget = int(wanted * self.algorithm.max_sampling_factor)
        asked = 0
        uniform: list[Group] = []
        while len(kept) < wanted and asked < budget:
            count = min(wanted - len(kept), budget - asked)
            asked += count
            groups = self._sample_and_judge(count, seconds)
            if not self.algorithm.dynamic_sampling:
                return groups, []
            for group in groups:
                (kept if self._teaches(group) else uniform).append(group)
        if not kept:
            self.progress.note(
                f"dynamic sampling: all {asked} groups had equal rewards, so this round teaches nothing. The "
                "task is too easy or too hard for now."
            )
            return uniform[:wanted], uniform[wanted:]
        return kept, uniform

    def _sample_and_judge(self, count: int, seconds: dict[str, float]) -> list[Group]:
        seed, taken = self.config.run.seed, self.state.prompts_taken
        chosen = shuffled(len(self.prompts), taken, count, seed=seed)
        self.progress.phase("sampling")
        with _timed(seconds, "sampling"):
            groups = sample_groups(
                self.engine,
                [self.prompts[i] for i in chosen],
                [self.prompt_ids[i] for i in chosen],
                self.config.sampling,
                size=self.algorithm.group_size,
                seeds=[(seed, SAMPLING, taken + i) for i in range(count)],
                should_stop=self._should_stop,
            )
        self.state.prompts_taken += count
        self.progress.phase("judging")
        with _timed(seconds, "judging"):
            return self.environment.judge(groups)

    def _teaches(self, group: Group) -> bool:
        """True if the answers that take part differ in their reward, penalties included."""
        how = self.config.reward
        rewards = {
            judgement.reward - (how.truncation_penalty or 0.0) * (completion.stop is StopReason.LENGTH)
            for completion, judgement in zip(group.completions, group.judgements, strict=True)
            if judgement.is_valid and not (how.truncated == "mask" and completion.stop is StopReason.LENGTH)
        }
        return len(rewards) > 1

    def _credit(self, number: int, groups: list[Group], sampled: dict[str, float]) -> Batch:
        """The round's samples with the columns that its updates need; a KL in the reward joins the metrics."""
        algorithm, how = self.algorithm, self.config.reward
        batch = Batch.of_groups(groups)
        valid = [
            completion
            for group in groups
            for completion, judgement in zip(group.completions, group.judgements, strict=True)
            if judgement.is_valid
        ]
        if how.truncated == "mask":
            truncated = torch.tensor([c.stop is StopReason.LENGTH for c in valid], dtype=torch.bool)
            batch.is_action_ST[truncated] = False
        batch.columns["sampler_logprob"] = batch.table([c.logprobs for c in valid])
        reward_ST = reward_table(groups, batch, truncation_penalty=how.truncation_penalty or 0.0)
        if self.reference is not None:

            def everything(tokens: int) -> list[Row]:
                return batch.rows(range(batch.sequences), max_tokens=tokens)

            batch.columns["ref_logprob"] = self._scores(batch, self.reference, everything, is_reference=True)
            if algorithm.kl == "reward":
                batch.columns["old_logprob"] = self._scores(batch, self.policy, everything)
                log_ratio_ST = batch.columns["old_logprob"] - batch.columns["ref_logprob"]
                estimate = kl_k1 if algorithm.kl_estimator == "k1" else kl_k3
                reward_ST -= self.state.kl_coef * estimate(log_ratio_ST)
                if batch.is_action_ST.any():
                    sampled["kl"] = float(kl_k3(log_ratio_ST)[batch.is_action_ST].mean())
        batch.columns["advantage"] = assign_advantages(batch, reward_ST, algorithm, self.state.running)
        if not algorithm.is_on_policy and "old_logprob" not in batch.columns:
            # In the rows that the first updates will have, so that their ratio is 1 to the last bit: in bfloat16
            # another packing moves a log-prob by more than GSPO's whole clipping range.
            parts = [self._minibatch(number, batch, index) for index in range(algorithm.minibatches)]
            batch.columns["old_logprob"] = self._scores(
                batch,
                self.policy,
                lambda tokens: [row for members in parts for row in self._rows(batch, members, tokens)],
            )
        return batch

    def _rows(self, batch: Batch, members: Sequence[int], max_tokens: int) -> list[Row]:
        """Packed rows of a minibatch, without the sequences that cannot change the update."""
        if self.algorithm.kl != "loss" and not self.algorithm.entropy_coef:
            changes = (batch.columns["advantage"] != 0).any(dim=1)
            members = [s for s in members if changes[s]]
        return batch.rows(members, max_tokens=max_tokens)

    @torch.no_grad()
    def _scores(self, batch: Batch, policy: Policy, cut: Cut, *, is_reference: bool = False) -> Tensor:
        def score(row: PackedRow) -> Tensor:
            return policy.score(row, temperature=self.config.sampling.temperature).logprob_M

        def table(rows: Sequence[Row]) -> Tensor:
            return scores_table(batch, score, rows)

        if is_reference and policy is self.policy:
            with policy.without_adapters():
                return self.session.budget.run(cut, table)
        return self.session.budget.run(cut, table)

    def _minibatch(self, number: int, batch: Batch, index: int) -> list[int]:
        """Sequences of one minibatch: whole groups, in an order drawn anew for each epoch."""
        epoch, part = divmod(index, self.algorithm.minibatches)
        groups = batch.group_S.unique().numpy()
        rng = np.random.default_rng([self.config.run.seed, MINIBATCHES, number, epoch])
        chosen = np.array_split(rng.permutation(groups), self.algorithm.minibatches)[part]
        return torch.isin(batch.group_S, torch.from_numpy(chosen)).nonzero()[:, 0].tolist()

    def _adapt_kl(self, kl: float) -> None:
        """β grows while the KL is above its target and shrinks below (Ziegler et al., arXiv:1909.08593, 2.2)."""
        target = self.algorithm.kl_target
        if target is not None:
            error = float(np.clip(kl / target - 1, -0.2, 0.2))
            self.state.kl_coef *= 1 + 0.1 * error

    def _is_measured(self, number: int) -> bool:
        every = self.config.eval.every
        return every is not None and (number % every == 0 or number == self.config.run.rounds)

    def _measure(self) -> dict[str, float]:
        assert self.held_out is not None
        self.progress.phase("held-out problems")
        try:
            result, _ = measure(
                self.engine, self.environment, *self.held_out, self.config.sampling,
                samples=1, seed=self.config.eval.seed, should_stop=self._should_stop,
            )  # fmt: skip
        except Interrupted:
            self._checkpoint()  # its updates are made: a resumed run begins by measuring
            self.session.stop()
        return {
            "eval/accuracy_sampled": result.accuracy_sampled,
            "eval/accuracy_greedy": result.accuracy_greedy,
            "eval/reward": result.mean_reward,
        }

    # Files ----------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        round_ = self.round_in_progress
        state = asdict(self.state)
        if round_ is not None:
            state["round"] = {
                "sampled": round_.sampled,
                "reports": [asdict(report) for report in round_.reports],
                "seconds": round_.seconds,
            }
        self.session.save(
            state,
            tables=round_.batch.columns | {"is_action": round_.batch.is_action_ST} if round_ else None,
            groups=round_.groups if round_ else None,
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = dict(checkpoint.state)
        self.state = State(
            rounds_done=saved["rounds_done"],
            prompts_taken=saved["prompts_taken"],
            running=RunningMean(**saved["running"]),
            kl_coef=saved["kl_coef"],
        )
        if groups := checkpoint.groups():
            batch = Batch.of_groups(groups)
            batch.is_action_ST = checkpoint.tables.pop("is_action")
            batch.columns = checkpoint.tables
            self.round_in_progress = Round(
                self.state.rounds_done + 1,
                groups,
                batch,
                saved["round"]["sampled"],
                reports=[UpdateReport(**report) for report in saved["round"]["reports"]],
                seconds=saved["round"]["seconds"],
            )

    def _write_rollouts(self, round_: Round) -> None:
        """One row per completion, with the token-level columns; broken completions have none."""
        tables = {n: t for n, t in sorted(round_.batch.columns.items()) if n != "sampler_logprob"}
        columns: dict[str, list[list[float] | None]] = {name: [] for name in tables}
        sequence = 0
        for group in round_.groups:
            for completion, judgement in zip(group.completions, group.judgements, strict=True):
                for name, table in tables.items():
                    values = table[sequence, : len(completion)].tolist() if judgement.is_valid else [math.nan]
                    columns[name].append(None if math.isnan(values[0]) else values)
                sequence += judgement.is_valid
        write_groups(self.session.folder.rollout_path(round_.number), round_.groups, token_columns=columns)

    # Small things ---------------------------------------------------------------------------------------

    def _load_reference(self) -> Policy:
        """The model that the run started from: without its adapters if they began at zero, else a copy."""
        start = self.session.start_model
        if self.policy.has_adapters and self.policy.adapters_are_new(start):
            return self.policy
        bfloat16 = self.session.compute == torch.bfloat16
        reference = load(self.config.model, start, precision="bfloat16" if bfloat16 else "float32")
        reference.freeze()
        return reference

    def _explain_zero_loss(self, report: UpdateReport) -> None:
        first = self.optimiser.updates == 1
        if first and abs(report.loss) < 1e-4 and report.grad_norm > 0:
            self.progress.note(
                f"The loss is {report.loss:.1e}, and that is right: on fresh samples the ratio is 1, so the loss "
                "is minus the mean advantage, and advantages are centred on 0. Its gradient is not 0 (norm "
                f"{report.grad_norm:.2f}). Watch the reward."
            )

    def _should_stop(self) -> bool:
        return self.session.interrupts.received is not None

    def _show_sample(self, groups: Sequence[Group]) -> None:
        group = groups[0]
        content = group.prompt.content
        text = content if isinstance(content, str) else content[-1]["content"]
        self.progress.sample(text, group.completions[0].text, group.judgements[0].reward)


def _held_out(config: RlConfig) -> list[Prompt]:
    """The problems that are measured during training, if any are."""
    e = config.eval
    if e.every is None:
        return []
    source = e.source or config.data.source
    is_generated = source.startswith(GENERATED)
    if e.source is None and not is_generated:
        raise ConfigError(
            "eval.source: must be set to measure on held-out problems: only generated tasks can make their own."
        )
    return prompts_of(
        SourceConfig(
            source=source,
            options=config.data.options if e.options is None else e.options,
            size=e.size,
            **({"seed": e.seed} if is_generated else {}),
        ),
        system_prompt=config.data.system_prompt,
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
