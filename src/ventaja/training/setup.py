"""All that a reinforcement-learning run holds, made from its config."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from rich.console import Console

from ventaja.environments import Environment, SingleTurn
from ventaja.errors import ConfigError
from ventaja.models import Policy
from ventaja.rollouts import Asking, Engine, load_weights
from ventaja.tracking import RL_COLUMNS, Progress
from ventaja.training.algorithms import Algorithm, all_found
from ventaja.training.config import RlConfig
from ventaja.training.critic import check_room
from ventaja.training.data import held_out_prompts, unseen
from ventaja.training.evaluation import full_marks, measure
from ventaja.training.joints import check_engine, check_environment, make_engine, make_environment
from ventaja.training.learner import Learner
from ventaja.training.model import load_model
from ventaja.training.model_reward import meet_all
from ventaja.training.notes import CUT_SAMPLING, Notes
from ventaja.training.optimiser import Optimiser
from ventaja.training.prompts import PromptStream, Rendered, left_out_note, render_all, room_note
from ventaja.training.round import State
from ventaja.training.scoring import Scorer
from ventaja.training.session import Session, Start
from ventaja.training.truncation import Truncation
from ventaja.training.update import Learners

Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class RlRun:
    """The parts of a run. Only `state`, the policy's weights and what is on the disk change while it goes on."""

    config: RlConfig
    algorithm: Algorithm
    truncation: Truncation
    environment: Environment
    engine: Engine
    prompts: PromptStream
    held_out: Rendered | None
    full_marks: dict[str, float] | None
    learners: Learners
    scorer: Scorer
    session: Session
    notes: Notes
    state: State

    @classmethod
    def of(
        cls,
        config: RlConfig,
        *,
        engine: Engine | None,
        environment: Environment | None,
        command: str,
        console: Console | None,
    ) -> RlRun:
        """Everything loaded, and the folder begun or gone on with. `engine` and `environment` stand in for the config's.

        Raises VentajaError with what to do next; a new folder is then as it was.
        """
        algorithm, truncation = all_found(config.chosen_algorithm()), Truncation.of(config)
        if engine is not None:
            check_engine(engine)
        if environment is None:
            environment = make_environment(config)
        else:
            check_environment(environment)
        held_out = held_out_prompts(config)
        asked = unseen(environment.prompts, held_out)
        if held_out and not asked:
            raise ConfigError("eval: every prompt is also held out, so none is left to train on.")
        start = Start.of(config)
        network = start.load(config)
        meet_all(getattr(environment, "rewards", ()), network.tokenizer, policy=network.name)
        longest = config.data.max_prompt_tokens if config.data else None
        prompts = render_all(network, asked, max_prompt_tokens=longest)
        problems = render_all(network, held_out, max_prompt_tokens=longest) if held_out else None
        rows = start.check_same_rows(prompts.token_ids)
        reference = _reference(start, config, network) if algorithm.needs_reference else None
        state = State(kl_coef=algorithm.kl_coef, entropy_coef=algorithm.entropy_coef)
        if start.checkpoint:
            state = State.of_checkpoint(start.checkpoint, algorithm, truncation)
        progress = Progress(config.run.rounds, RL_COLUMNS, start=state.rounds_done, console=console)
        policy = start.learner(
            network,
            config.optimiser,
            total_updates=config.run.rounds * algorithm.updates_per_round,
            note=progress.note,
        )
        critic = start.critic(config, policy, note=progress.note) if algorithm.has_critic else None
        learners = {"policy": policy}
        if critic is not None and not critic.shares_trunk:
            learners["critic"] = critic.learner
            longest = max(map(len, prompts.token_ids)) + config.sampling.max_tokens
            check_room(critic.learner.network, network, longest=longest)
        start.restore(learners)
        engine = engine or make_engine(config.engine, network)
        load_weights(engine, network, version=policy.updates)
        session = Session(start, config, learners, progress, command=command, rows=rows, setting="run.rounds")
        rendered = [*prompts.token_ids, *(problems.token_ids if problems else ())]
        for note in (
            None if config.sampling.is_whole else CUT_SAMPLING,
            left_out_note(prompts.left_out),
            room_note(network, rendered, config.sampling),
        ):
            if note:
                progress.note(note)
        run = cls(
            config=config,
            algorithm=algorithm,
            truncation=truncation,
            environment=environment,
            engine=engine,
            prompts=PromptStream(rendered=prompts, seed=config.run.seed),
            held_out=problems,
            full_marks=full_marks(environment.rewards if isinstance(environment, SingleTurn) else ()),
            learners=Learners(policy=policy, critic=critic, reference=reference),
            scorer=Scorer(
                policy=policy,
                reference=reference,
                algorithm=algorithm,
                temperature=config.sampling.temperature,
                critic=critic,
            ),
            session=session,
            notes=Notes(config=config, algorithm=algorithm, progress=progress),
            state=state,
        )
        run.keep_schedule()
        return run

    @property
    def policy(self) -> Learner:
        return self.learners.policy

    def seed(self, number: int) -> tuple[int, int]:
        """Names the random streams of a round."""
        return self.config.run.seed, number

    def asking(self, phase: Phase) -> Asking:
        """The engine with the weights of now, for an environment to ask."""
        return Asking(
            engine=self.engine,
            sampling=self.config.sampling,
            version=self.policy.updates,
            vocabulary=self.policy.network.vocabulary,
            tokenizer=self.policy.network.tokenizer,
            should_stop=lambda: self.session.interrupts.received is not None,
            phase=phase,
        )

    def measured(self, number: int) -> dict[str, float]:
        """The metrics of the held-out problems, if they are due after this round. Raises Interrupted if asked to stop."""
        every = self.config.eval.every
        if every is None or not (number % every == 0 or number == self.config.run.rounds):
            return {}
        assert self.held_out is not None
        self.session.progress.phase("held-out problems")
        result, _ = measure(
            self.asking(lambda name: nullcontext()),
            self.environment,
            self.held_out,
            samples=1,
            seed=self.config.eval.seed,
            full_marks=self.full_marks,
            max_broken_fraction=self.config.reward.max_broken_fraction,
        )
        metrics = {
            "eval/accuracy_sampled": result.accuracy_sampled,
            "eval/accuracy_greedy": result.accuracy_greedy,
            "eval/reward": result.mean_reward,
            "eval/gold": result.rewards.get(self.config.reward.gold or ""),
        } | {f"eval/{name}": value for name, value in result.reward_metrics.items()}
        return {name: value for name, value in metrics.items() if value is not None}

    def save(self) -> None:
        """A checkpoint of the run as it is now."""
        self.session.save(**self.state.files())

    def keep_schedule(self) -> None:
        """Tell the optimiser how many of the updates planned so far made no step, so that its schedule ends in time."""
        for optimiser in self._optimisers():
            optimiser.unmade = self._planned() - optimiser.updates

    def is_whole(self) -> bool:
        """False between an optimiser step and its report: a run resumed from there would take the step again."""
        return all(self._planned() - one.updates == one.unmade for one in self._optimisers())

    def _optimisers(self) -> list[Optimiser]:
        return [one for learner in self.session.learners.values() for one in learner.optimisers]

    def _planned(self) -> int:
        """Updates that the rounds so far had a place for, whether or not they made a step."""
        reports = self.state.round.reports if self.state.round else []
        return self.state.rounds_done * self.algorithm.updates_per_round + len(reports)


def _reference(start: Start, config: RlConfig, policy: Policy) -> Policy:
    """The model that the run started from: the policy itself if its adapters began at zero, else a copy."""
    if policy.has_adapters and policy.adapters_are_new(start.model):
        return policy
    bfloat16 = start.compute == torch.bfloat16
    reference = load_model(config.model, start.model, precision="bfloat16" if bfloat16 else "float32")
    reference.freeze()
    return reference
