"""A prompt to be answered, and the prompt with its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ventaja.records.judgement import Judgement
from ventaja.records.prompt import Prompt
from ventaja.records.trajectory import Completion, Given, Trajectory

Finished = Callable[[int, int, Completion], None]
"""`finished(request, k, completion)` is called for each completion as soon as it has ended, with its request's place."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask for `count` completions of one prompt."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    """The rendered prompt's tokens; in a later turn, all that has been said since as well."""
    count: int
    seed: tuple[int, ...]
    """Names the random streams: completion k draws from the stream (seed, k), whatever else is sampled. Two requests with
    one seed draw the same numbers; `after` gives a later turn its own."""

    def answered(self, completions: Sequence[Completion]) -> Group:
        """The group of these answers, one turn each, not judged yet."""
        return Group(
            prompt=self.prompt,
            prompt_ids=self.prompt_ids,
            trajectories=tuple(Trajectory.of(completion) for completion in completions),
        )

    def after(self, k: int, *turns: Completion | Given) -> Request:
        """Ask for trajectory k's next turn: one completion behind all that has been said in it, drawn from a random stream
        of its own. Without any turn yet it asks for the first."""
        said = tuple(token for turn in turns for token in turn.token_ids)
        return replace(self, prompt_ids=self.prompt_ids + said, count=1, seed=(*self.seed, k, len(turns)))


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt with its k trajectories: a type, not a convention about neighbouring rows."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    """The rendered prompt's tokens, shared by all trajectories."""
    trajectories: tuple[Trajectory, ...]
    judgements: tuple[Judgement, ...] = ()
    """One per trajectory, in order; empty until judged."""

    def __post_init__(self) -> None:
        if self.judgements and len(self.judgements) != len(self.trajectories):
            raise ValueError(f"{len(self.trajectories)} trajectories but {len(self.judgements)} judgements")

    def __len__(self) -> int:
        return len(self.trajectories)

    def judged(self) -> list[tuple[Trajectory, Judgement]]:
        """Each trajectory with its judgement. Raises ValueError if the group is not judged."""
        return list(zip(self.trajectories, self.judgements, strict=True))
