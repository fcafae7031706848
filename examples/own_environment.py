"""An environment of your own: every answer plays against the other answers to its prompt. A reward function sees one
answer at a time, or all of them in a heap; an environment sees who answered what.

ventaja rl run.yaml --environment examples/own_environment.py:Tournament      (a run file without `reward`)
"""

from dataclasses import replace

from ventaja.records import Judgement


class Tournament:
    """The shorter of two answers wins if it has the wanted word; a right one always beats a wrong one."""

    def __init__(
        self, prompts, word="yes"
    ):  # `prompts` are those of the run file's data; the rest are its options
        self.prompts, self.word = prompts, word

    def rollout(self, ask, requests):
        groups = [request.answered(said) for request, said in zip(requests, ask(requests), strict=True)]
        return [replace(group, judgements=self.judge(group)) for group in groups]

    def judge(self, group):
        strength = [1 / (1 + len(said)) if self.word in said.text else 0.0 for said in group.trajectories]
        return tuple(
            Judgement.outcome(self.games_won(mine, strength) / max(len(group) - 1, 1), length=len(said))
            for mine, said in zip(strength, group.trajectories, strict=True)
        )

    def games_won(self, mine, others):
        """A win counts 1 and a draw a half; the game against itself does not count."""
        return sum(1.0 if mine > other else 0.5 if mine == other else 0.0 for other in others) - 0.5
