"""What a run says of a round when something in it needs a word."""

from __future__ import annotations

from dataclasses import dataclass

from ventaja.tracking import Progress
from ventaja.tracking.words import counted
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.config import RlConfig
from ventaja.training.credit import return_of
from ventaja.training.learner import Learner, UpdateReport
from ventaja.training.round import Round

CUT_SAMPLING = (
    "sampling.top_k, top_p or min_p cut the distribution that answers are sampled from, but training scores the whole "
    "one: ratios and KL are then those of another policy than the one that answered, and tokens that were cut off can "
    "gain probability unseen. Leave them out for training; sampling/logprob_gap shows how large the mismatch is."
)


LARGE_GAP = 0.1
"""Nats between sampler and trainer that rounding does not explain."""


@dataclass(kw_only=True)
class Notes:
    """Says each thing as often as it helps."""

    config: RlConfig
    algorithm: Algorithm
    progress: Progress
    rounds_without_comparison: int = 0
    said_that_judging_is_slow: bool = False
    said_that_samplers_differ: bool = False
    policy_moved: bool | None = None

    def nothing_to_compare(
        self, number: int, batch: Batch, sampled: dict[str, float], *, groups: int
    ) -> None:
        """Say that a round's rewards compare nothing: the first time, the tenth, the hundredth, and so on.

        Looked at are the answers that take part, with every penalty; a KL in the reward says nothing of answers, so
        `batch` is that before credit. `groups` counts all that were sampled.
        """
        counts = batch.takes_part_S
        return_S = return_of(batch.columns["token_reward"])
        masked = int((~counts).sum())
        aside = f" ({masked} were cut off and are masked: raise sampling.max_tokens)" if masked else ""
        within_groups = self.algorithm.compares_groups
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
        elif len(return_S[counts].unique()) == 1:
            total = f"{sampled['samples']:.0f} answers" if not masked else "answers that take part"
            why = f"all {total} have the reward {float(return_S[counts][0]):.4g}{aside}. {self._too_easy_or_hard()}"
        elif within_groups and sampled.get("frac_reward_zero_std") == 1:
            why = (
                f"in each of the {groups} groups all answers have the same{aside}. {self._too_easy_or_hard()}"
            )
        else:
            return
        self.rounds_without_comparison += 1
        count = self.rounds_without_comparison
        if count == 10 ** (len(str(count)) - 1):
            so_far = f", for the {count}th time" if count > 1 else ""
            self.progress.note(
                f"The rewards of round {number} do not say which answers are better{so_far}: {why}"
            )

    def critic_alone(self, number: int, policy_moves: bool) -> None:
        """That the policy stays where it is, and when it begins to move."""
        if policy_moves and self.policy_moved is False:
            self.progress.note(f"From round {number} on the policy is trained too.")
        elif not policy_moves and self.policy_moved is None:
            limit = self.config.critic.min_explained_variance
            until = [f"for {counted(self.config.critic.warmup_rounds, 'round')}"] * bool(
                self.config.critic.warmup_rounds
            ) + [f"until value/explained_variance is above {limit}"] * (limit is not None)
            self.progress.note(
                f"The critic is trained alone at first, {' and '.join(until)}: the policy stays."
            )
        self.policy_moved = policy_moves

    def _too_easy_or_hard(self) -> str:
        larger = "algorithm.group_size" if self.algorithm.group_size > 1 else "run.completions_per_round"
        return (
            "The task is too easy or too hard for now: take other prompts, give the model a supervised start, or raise "
            f"{larger}."
        )

    def first_loss(self, policy: Learner, report: UpdateReport) -> None:
        """That a loss of 0 is right, if it is."""
        first = policy.updates == 1 and self.algorithm.first_loss_is_zero
        if first and abs(report.loss) < 1e-4 and report.grad_norm > 0:
            self.progress.note(
                f"The loss is {report.loss:.1e}, and that is right: on fresh samples the ratio is 1, so the loss "
                "is minus the mean advantage, and a group's advantages add up to 0. Its gradient is not 0 (norm "
                f"{report.grad_norm:.2f}). Watch the reward."
            )

    def after(self, round_: Round, metrics: dict[str, float]) -> None:
        """Show what was asked and said; and that judging was slow, or the sampler another policy than the one that is
        trained, if they were."""
        gap = metrics.get("sampling/logprob_gap", 0.0)
        if gap > LARGE_GAP and self.config.sampling.is_whole and not self.said_that_samplers_differ:
            self.said_that_samplers_differ = True
            self.progress.note(
                f"The sampler's log-probs are {gap:.2f} nats from what the trained weights give the same tokens, on average "
                "(usual: below 0.01). With an engine of your own: does it sample with the weights of the last load, and "
                "give log-probs at sampling.temperature? Until they agree, updates are not what their formula says."
            )
        group = round_.groups[0]
        content = group.prompt.content
        text = content if isinstance(content, str) else content[-1]["content"]
        self.progress.sample(text, group.trajectories[0].text, group.judgements[0].reward)
        self._slow_judging(round_.seconds)

    def _slow_judging(self, seconds: dict[str, float]) -> None:
        judging, whole = seconds.get("judging", 0.0), sum(seconds.values())
        can = not (self.config.reward.overlap or self.config.environment.is_own)
        if not can or self.said_that_judging_is_slow or judging < max(1.0, 0.1 * whole):
            return
        self.said_that_judging_is_slow = True
        self.progress.note(
            f"Judging took {judging:.1f} of the round's {whole:.1f} s. With --reward.overlap true answers are judged "
            "while others are still being sampled."
        )
