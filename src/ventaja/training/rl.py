"""The loop: prompts → groups → rewards → credit → weights → packed rows → step → engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ventaja.environments import Environment, Reward, SingleTurn, noted_metrics
from ventaja.errors import ConfigError
from ventaja.functional import kl_k3
from ventaja.models import Policy
from ventaja.records import Group, Prompt
from ventaja.rollouts import Engine, Interrupted, LocalEngine
from ventaja.tracking import RL_COLUMNS, Progress, Run, RunFolder, loading
from ventaja.training.batch import Batch, Row, epoch_column
from ventaja.training.collecting import Collector
from ventaja.training.config import RlConfig
from ventaja.training.credit import assign_advantages, judged_batch, takes_part
from ventaja.training.data import held_out_prompts, training_prompts, unseen
from ventaja.training.evaluation import full_marks, load_rewards, measure
from ventaja.training.learner import UpdateReport
from ventaja.training.left_out import left_out_sums, measure_left_out, teaches
from ventaja.training.metrics import credit_metrics, ratio_metrics, rollout_metrics, update_metrics
from ventaja.training.objective import PolicyObjective, kl_in_reward, token_weights
from ventaja.training.parts import all_found
from ventaja.training.prompts import left_out_note, render_all, room_note
from ventaja.training.round import Round, State, timed
from ventaja.training.row_budget import Cut, out_of_memory_explained
from ventaja.training.session import Session, Start, load

MINIBATCHES = 0x3B
"""Names the random stream of minibatches, apart from those of shuffles and sampling."""
LEFT_OUT = 0x10
"""Names the random stream that draws which of the answers that are not trained on are measured."""

TOO_EASY_OR_HARD = (
    "The task is too easy or too hard for now: take other prompts, give the model a supervised start, or raise "
    "algorithm.group_size."
)

CUT_SAMPLING = (
    "sampling.top_k, top_p or min_p cut the distribution that answers are sampled from, but training scores the whole "
    "one: ratios and KL are then those of another policy than the one that answered, and tokens that were cut off can "
    "gain probability unseen. Leave them out for training; sampling/logprob_gap shows how large the mismatch is."
)
LESS_MEMORY = (
    "Sample fewer answers at once (run.max_batch) or shorter ones (sampling.max_tokens), take fewer tokens at once "
    "(optimiser.max_tokens), or train adapters (model.lora) instead of all weights."
)


def train_rl(
    config: RlConfig,
    *,
    command: str = "",
    prompts: Sequence[Prompt] | None = None,
    rewards: Sequence[Reward] | None = None,
    engine: Engine | None = None,
    environment: Environment | None = None,
    on_round: Callable[[Run, int], None] | None = None,
    console: Console | None = None,
) -> Run:
    """Train as the config says and return the run.

    `prompts` and `rewards` stand in for what the config would load, `environment` for both; `engine` samples in place
    of one in this process. `on_round(run, round)` is called after each
    round's record is written, with the run to read and the round's number (from 1). A round that a resumed run plays
    again is told of again. What it raises ends the run, as any error does.

    Raises VentajaError with what to do next. An error of any kind, Ctrl-C (also twice) or SIGTERM in the middle first
    writes a checkpoint to go on from, once something was trained.
    """
    with RunFolder(config.run.folder).locked(command=command):
        with loading(config.model.name, console):
            environment, held_out = _world(config, prompts, rewards, environment)
            loop = RlLoop(
                config,
                environment,
                held_out,
                engine=engine,
                command=command,
                on_round=on_round,
                console=console,
            )
        session = loop.session
        with (
            session.running(),
            session.nothing_lost(loop.checkpoint, is_whole=loop.is_whole),
            out_of_memory_explained(LESS_MEMORY),
        ):
            for number in loop.rounds():
                round_ = loop.state.round or loop.begin(number)
                for index in loop.updates(round_):
                    loop.update(round_, index)
                loop.finish(round_)
    return Run(config.run.folder)


def _world(
    config: RlConfig,
    prompts: Sequence[Prompt] | None,
    rewards: Sequence[Reward] | None,
    environment: Environment | None,
) -> tuple[Environment, list[Prompt]]:
    """What is asked and who judges, and the held-out prompts, none of which is trained on."""
    held_out = held_out_prompts(config)
    if environment is not None:
        if unseen(environment.prompts, held_out) != list(environment.prompts):
            raise ConfigError(
                "eval: some held-out prompts are among the environment's own. Take them out of it."
            )
        return environment, held_out
    rewards = rewards or load_rewards(config.reward, config.data.source)
    prompts = unseen(prompts if prompts is not None else training_prompts(config.data), held_out)
    if held_out and not prompts:
        raise ConfigError("eval: every prompt is also held out, so none is left to train on.")
    return SingleTurn(prompts=prompts, rewards=rewards, timeout=config.reward.timeout), held_out


class RlLoop:
    """Everything that one run holds, and the steps of its rounds."""

    def __init__(
        self,
        config: RlConfig,
        environment: Environment,
        held_out: Sequence[Prompt] = (),
        *,
        engine: Engine | None = None,
        command: str = "",
        on_round: Callable[[Run, int], None] | None = None,
        console: Console | None = None,
    ) -> None:
        self.config, self.environment, self.on_round = config, environment, on_round
        self.algorithm = all_found(config.algorithm.resolve())
        self.full_marks = full_marks(getattr(environment, "rewards", ()))
        start = Start.of(config)
        policy = start.load(config)
        limit = config.data.max_prompt_tokens
        self.prompts, self.prompt_ids, left_out = render_all(
            policy, environment.prompts, max_prompt_tokens=limit
        )
        self.held_out = render_all(policy, held_out, max_prompt_tokens=limit)[:2] if held_out else None
        rows = start.check_same_rows(self.prompt_ids)
        self.reference = self._reference(start, policy) if self.algorithm.needs_reference else None
        self.state = State(kl_coef=self.algorithm.kl_coef)
        if start.checkpoint:
            self.state = State.of_checkpoint(start.checkpoint, self.algorithm)
        self.progress = Progress(config.run.rounds, RL_COLUMNS, start=self.state.rounds_done, console=console)
        self.policy = start.learner(
            policy,
            config.optimiser,
            total_updates=config.run.rounds * self.algorithm.updates_per_round,
            note=self.progress.note,
        )
        self.engine = engine or LocalEngine(policy, max_batch=config.run.max_batch)
        self.engine.load(policy, version=self.policy.updates)
        self.session = Session(
            start, config, self.policy, self.progress, command=command, rows=rows, setting="run.rounds"
        )
        self.run = Run(self.session.folder.path)
        self.collector = Collector(
            config=config,
            algorithm=self.algorithm,
            engine=self.engine,
            environment=environment,
            prompts=self.prompts,
            prompt_ids=self.prompt_ids,
            should_stop=self._should_stop,
            progress=self.progress,
        )
        self._keep_schedule()
        self.said_that_judging_is_slow = False
        self.rounds_without_comparison = 0
        asked = [*self.prompt_ids, *(self.held_out[1] if self.held_out else ())]
        cut = None if config.sampling.is_whole else CUT_SAMPLING
        for note in (cut, left_out_note(left_out), room_note(policy, asked, config.sampling)):
            if note:
                self.progress.note(note)

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
            with noted_metrics() as noted:
                groups, replaced = self.collector.collect(self.state, seconds)
            self.engine.release()
            sampled = rollout_metrics(
                [*groups, *replaced], has_spread=self.collector.has_spread, full_marks=self.full_marks
            )
            sampled |= noted.means()
            if self.algorithm.dynamic_sampling:
                sampled["replaced_groups"] = float(len(replaced))
            self._explain_nothing_to_compare(number, groups, len(groups) + len(replaced), sampled)
            self.progress.phase("training")
            with timed(seconds, "training"):
                batch = self._credit(number, groups, sampled)
        except Interrupted:
            self.state.prompts_taken = taken
            self.checkpoint()
            self.session.stop()
        except BaseException:
            self.state.prompts_taken = taken
            raise
        self.state.round = Round(number, groups, batch, sampled, seconds=seconds)
        return self.state.round

    def updates(self, round_: Round) -> Iterator[int]:
        """Indices of the updates still to make on this round's samples."""
        while len(round_.reports) < self.algorithm.updates_per_round and not self._went_too_far(round_):
            yield len(round_.reports)

    def update(self, round_: Round, index: int) -> None:
        """One optimiser step on one minibatch, if it teaches anything; then a checkpoint if one is due."""
        algorithm, batch, epoch = self.algorithm, round_.batch, index // self.algorithm.minibatches
        members = self._minibatch(round_.number, batch, index)
        moves = algorithm.trains_every_token or bool(batch.columns["advantage"][members].any())
        # Fewer groups than minibatches, or a KL in the reward that moves nothing here: no step with nothing to learn.
        if not members or (algorithm.kl == "reward" and not moves):
            round_.reports.append(UpdateReport.empty(self.policy.learning_rate))
            self._keep_schedule()
            return
        with timed(round_.seconds, "training"):
            left_out = left_out_sums(
                batch,
                members,
                algorithm,
                lambda chosen: self._scores(batch, lambda n: batch.rows(chosen, max_tokens=n)),
                moved=any(report.stepped for report in round_.reports),
                epoch=epoch,
            )
            log_ratio_ST = torch.full(batch.is_action_ST.shape, torch.nan)
            is_action = torch.zeros_like(batch.is_action_ST)
            is_action[members] = batch.is_action_ST[members]
            report = self.policy.update(
                lambda tokens: self._rows(batch, members, tokens),
                PolicyObjective(
                    algorithm,
                    batch,
                    self.state.kl_coef,
                    old_logprob=epoch_column("old_logprob", algorithm, epoch),
                    log_ratio_ST=log_ratio_ST,
                ),
                token_weights(algorithm, is_action, max_tokens=self.config.sampling.max_tokens),
                temperature=self.config.sampling.temperature,
                entropy=algorithm.entropy_coef != 0,
                left_out=left_out,
            )
        ratios = ratio_metrics(batch, members, log_ratio_ST, algorithm)
        round_.reports.append(replace(report, means=report.means | ratios))
        self._keep_schedule()
        self._explain_zero_loss(report)
        if report.stepped and len(round_.reports) < algorithm.updates_per_round:
            self.session.pause(self.checkpoint)

    def finish(self, round_: Round) -> None:
        """The engine gets the weights; then record the round, adapt what adapts, and checkpoint if one is due."""
        self.engine.load(self.policy.network, version=self.policy.updates)
        metrics = round_.sampled | update_metrics(round_.reports)
        if self.algorithm.max_approx_kl is not None:
            metrics["kl_early_stop"] = float(len(round_.reports) < self.algorithm.updates_per_round)
        if self._is_measured(round_.number):
            metrics |= self._measure()
        if self.reference is not None:
            metrics["kl_coef"] = self.state.kl_coef
        metrics |= self.policy.metrics()
        tokens = metrics["completions/mean_length"] * metrics["samples"]
        metrics |= {f"seconds/{name}": value for name, value in round_.seconds.items()}
        metrics["tokens_per_second"] = tokens / sum(round_.seconds.values())
        round_.write_rollouts(self.session.folder.rollout_path(round_.number))
        self.session.record(round_.number, metrics)
        self._explain_slow_judging(round_.seconds)
        self._show_sample(round_.groups)
        if "kl" in metrics:
            self._adapt_kl(metrics["kl"])
        if "return" in metrics:
            self.state.running = self.state.running.update(metrics["return"])
        self.state.rounds_done = round_.number
        self.state.round = None
        self._keep_schedule()
        if self.on_round is not None:
            self.on_round(self.run, round_.number)
        self.session.pause(self.checkpoint, last=round_.number == self.config.run.rounds)

    # Their parts ----------------------------------------------------------------------------------------

    def _credit(self, number: int, groups: list[Group], sampled: dict[str, float]) -> Batch:
        """The round's samples with the columns that its updates need; a KL in the reward joins the metrics."""
        algorithm = self.algorithm
        max_tokens = self.config.sampling.max_tokens
        batch, reward_ST = judged_batch(groups, self.config.reward, max_tokens=max_tokens)
        batch.columns["sampler_logprob"] = batch.table(
            [
                completion.logprobs
                for group in groups
                for completion, judgement in zip(group.completions, group.judgements, strict=True)
                if judgement.is_valid
            ]
        )
        if self.reference is not None:
            batch.columns["ref_logprob"] = self._scores(
                batch, self._epoch_rows(number, batch, 0), network=self.reference
            )
            if algorithm.kl == "reward":
                self._score_old(number, batch)
                log_ratio_ST = batch.columns["old_logprob"] - batch.columns["ref_logprob"]
                reward_ST -= self.state.kl_coef * kl_in_reward(algorithm, log_ratio_ST)
                if batch.is_action_ST.any():
                    sampled["kl"] = float(kl_k3(log_ratio_ST)[batch.is_action_ST].mean())
        batch.columns["advantage"] = assign_advantages(batch, reward_ST, algorithm, self.state.running)
        tokens = round(sampled["completions/mean_length"] * sampled["samples"])
        sampled |= credit_metrics(batch, reward_ST.sum(dim=1), algorithm, sampled_tokens=tokens)
        if not algorithm.is_on_policy and "old_logprob" not in batch.columns:
            self._score_old(number, batch)
        measure_left_out(
            batch,
            algorithm,
            lambda chosen: self._scores(batch, lambda n: batch.rows(chosen, max_tokens=n)),
            seed=[self.config.run.seed, LEFT_OUT, number],
            epochs=[self._minibatches(number, batch, epoch) for epoch in range(algorithm.epochs)],
        )
        return batch

    def _score_old(self, number: int, batch: Batch) -> None:
        """Column `old_logprob`, and one more for each later epoch that meets the samples in other rows.

        In the rows that the updates will have, so that the ratio of an unchanged policy is 1 to the last bit:
        in bfloat16 another packing moves a log-prob by some 0.04, and GSPO's whole clipping range is 0.0007.
        """
        for epoch in range(self.algorithm.epochs):
            column = epoch_column("old_logprob", self.algorithm, epoch)
            if column not in batch.columns:
                rows = self._epoch_rows(number, batch, epoch)
                batch.columns[column] = self._scores(batch, rows)

    def _epoch_rows(self, number: int, batch: Batch, epoch: int) -> Cut:
        """The rows of all updates of an epoch."""
        parts = self._minibatches(number, batch, epoch)
        return lambda tokens: [row for members in parts for row in self._rows(batch, members, tokens)]

    def _minibatches(self, number: int, batch: Batch, epoch: int) -> list[list[int]]:
        first = epoch * self.algorithm.minibatches
        return [self._minibatch(number, batch, first + part) for part in range(self.algorithm.minibatches)]

    def _rows(self, batch: Batch, members: Sequence[int], max_tokens: int) -> list[Row]:
        """Packed rows of a minibatch, without the sequences that cannot change the update."""
        is_needed = teaches(batch, self.algorithm)
        return batch.rows([s for s in members if is_needed[s]], max_tokens=max_tokens)

    def _scores(self, batch: Batch, cut: Cut, *, network: Policy | None = None) -> Tensor:
        return self.policy.score(batch, cut, temperature=self.config.sampling.temperature, network=network)

    def _minibatch(self, number: int, batch: Batch, index: int) -> list[int]:
        """Sequences of one minibatch: whole groups, in an order drawn anew for each epoch."""
        epoch, part = divmod(index, self.algorithm.minibatches)
        groups = batch.group_S.unique().numpy()
        rng = np.random.default_rng([self.config.run.seed, MINIBATCHES, number, epoch])
        chosen = np.array_split(rng.permutation(groups), self.algorithm.minibatches)[part]
        return torch.isin(batch.group_S, torch.from_numpy(chosen)).nonzero()[:, 0].tolist()

    def _went_too_far(self, round_: Round) -> bool:
        """True if the last update found the policy further from the one that sampled than `max_approx_kl`."""
        limit = self.algorithm.max_approx_kl
        return limit is not None and any(r.means.get("approx_kl", 0.0) > limit for r in round_.reports[-1:])

    def _keep_schedule(self) -> None:
        """Tell the optimiser how many of the updates planned so far made no step, so that its schedule ends in time."""
        self.policy.optimiser.unmade = self._planned() - self.policy.updates

    def is_whole(self) -> bool:
        """False between an optimiser step and its report: a run resumed from there would take the step again."""
        return self._planned() - self.policy.updates == self.policy.optimiser.unmade

    def _planned(self) -> int:
        """Updates that the rounds so far had a place for, whether or not they made a step."""
        reports = self.state.round.reports if self.state.round else []
        return self.state.rounds_done * self.algorithm.updates_per_round + len(reports)

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
                self.engine, self.environment, *self.held_out, self.config.sampling, self.config.reward,
                samples=1, seed=self.config.eval.seed, full_marks=self.full_marks, should_stop=self._should_stop,
            )  # fmt: skip
        except Interrupted:
            self.checkpoint()  # its updates are made: a resumed run begins by measuring
            self.session.stop()
        metrics = {
            "eval/accuracy_sampled": result.accuracy_sampled,
            "eval/accuracy_greedy": result.accuracy_greedy,
            "eval/reward": result.mean_reward,
        } | {f"eval/{name}": value for name, value in result.reward_metrics.items()}
        return {name: value for name, value in metrics.items() if value is not None}

    def checkpoint(self) -> None:
        self.session.save(**self.state.files())

    # Small things ---------------------------------------------------------------------------------------

    def _reference(self, start: Start, policy: Policy) -> Policy:
        """The model that the run started from: the policy itself if its adapters began at zero, else a copy."""
        if policy.has_adapters and policy.adapters_are_new(start.model):
            return policy
        bfloat16 = start.compute == torch.bfloat16
        reference = load(self.config.model, start.model, precision="bfloat16" if bfloat16 else "float32")
        reference.freeze()
        return reference

    def _explain_zero_loss(self, report: UpdateReport) -> None:
        first = self.policy.updates == 1 and self.algorithm.first_loss_is_zero
        if first and abs(report.loss) < 1e-4 and report.grad_norm > 0:
            self.progress.note(
                f"The loss is {report.loss:.1e}, and that is right: on fresh samples the ratio is 1, so the loss "
                "is minus the mean advantage, and a group's advantages add up to 0. Its gradient is not 0 (norm "
                f"{report.grad_norm:.2f}). Watch the reward."
            )

    def _explain_nothing_to_compare(
        self, number: int, groups: list[Group], asked: int, sampled: dict[str, float]
    ) -> None:
        """Say that a round's rewards compare nothing: the first time, the tenth, the hundredth, and so on.

        Looked at are the answers that take part, with every penalty; a KL in the reward says nothing of answers.
        """
        batch, reward_ST = judged_batch(
            groups, self.config.reward, max_tokens=self.config.sampling.max_tokens
        )
        counts = takes_part(batch)
        masked = int((~counts).sum())
        aside = f" ({masked} were cut off and are masked: raise sampling.max_tokens)" if masked else ""
        within_groups = self.algorithm.baseline in ("group_mean", "leave_one_out")
        if "reward" not in sampled:
            why = (
                "no answer has one, because all were None or broken. Check that the prompts have the columns that the "
                "reward function reads."
            )
        elif not counts.any():
            why = (
                "every answer was cut off by sampling.max_tokens, and cut ones are masked (reward.truncated). Raise "
                "sampling.max_tokens."
            )
        elif len(reward_ST.sum(dim=1)[counts].unique()) == 1:
            total = f"{sampled['samples']:.0f} answers" if not masked else "answers that take part"
            value = float(reward_ST.sum(dim=1)[counts][0])
            why = f"all {total} have the reward {value:.4g}{aside}. {TOO_EASY_OR_HARD}"
        elif within_groups and sampled.get("frac_reward_zero_std") == 1:
            why = f"in each of the {asked} groups all answers have the same{aside}. {TOO_EASY_OR_HARD}"
        else:
            return
        self.rounds_without_comparison += 1
        count = self.rounds_without_comparison
        if count == 10 ** (len(str(count)) - 1):
            so_far = f", for the {count}th time" if count > 1 else ""
            self.progress.note(
                f"The rewards of round {number} do not say which answers are better{so_far}: {why}"
            )

    def _explain_slow_judging(self, seconds: dict[str, float]) -> None:
        judging, whole = seconds["judging"], sum(seconds.values())
        if self.config.reward.overlap or self.said_that_judging_is_slow or judging < max(1.0, 0.1 * whole):
            return
        self.said_that_judging_is_slow = True
        self.progress.note(
            f"Judging took {judging:.1f} of the round's {whole:.1f} s. With --reward.overlap true answers are judged "
            "while others are still being sampled."
        )

    def _should_stop(self) -> bool:
        return self.session.interrupts.received is not None

    def _show_sample(self, groups: Sequence[Group]) -> None:
        group = groups[0]
        content = group.prompt.content
        text = content if isinstance(content, str) else content[-1]["content"]
        self.progress.sample(text, group.completions[0].text, group.judgements[0].reward)
