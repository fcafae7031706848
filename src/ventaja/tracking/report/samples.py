"""What a model said: the best and the worst answers to a few prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ventaja.records import Given, Group, Judgement, Prompt, Trajectory, read_groups
from ventaja.tracking.folder import RunFolder
from ventaja.tracking.report.markup import as_value, escaped
from ventaja.tracking.words import counted, shortened

_MOST_CHARACTERS = 3000


def samples_section(folder: RunFolder) -> str:
    """Samples of the first and of the last round whose rollouts are kept."""
    rounds = folder.rollout_rounds()
    if not rounds:
        return ""
    parts = []
    for round in dict.fromkeys((rounds[0], rounds[-1])):
        groups = read_groups(folder.rollout_path(round))
        parts.append(f"<h3>Round {round}</h3>" + "".join(_group(group) for group in groups[:3]))
    intro = "<p>The best and the worst completion of a few prompts.</p>"
    return f"<section><h2>Samples</h2>{intro}{''.join(parts)}</section>"


def _group(group: Group) -> str:
    judgements: Sequence[Judgement | None] = group.judgements or (None,) * len(group)
    pairs = sorted(zip(group.trajectories, judgements, strict=True), key=_by_reward, reverse=True)
    shown = pairs[:1] if len(pairs) == 1 else [pairs[0], pairs[-1]]
    answers = "".join(_trajectory(*pair) for pair in shown)
    return f'<article><pre class="prompt">{_prompt(group.prompt)}</pre>{answers}</article>'


def _by_reward(pair: tuple[Trajectory, Judgement | None]) -> float:
    judgement = pair[1]
    return judgement.reward if judgement and math.isfinite(judgement.reward) else -math.inf


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return escaped(shortened(prompt.content, _MOST_CHARACTERS))
    return "\n".join(
        f"<b>{escaped(turn['role'])}</b> {escaped(shortened(turn['content'], _MOST_CHARACTERS))}"
        for turn in prompt.content
    )


def _trajectory(trajectory: Trajectory, judgement: Judgement | None) -> str:
    facts = [counted(sum(trajectory.is_chosen), "token"), f"ended by {trajectory.stop.value}"]
    if len(trajectory.turns) > 1:
        facts.append(counted(len(trajectory.turns), "turn"))
    faults = ""
    if judgement is not None:
        facts.insert(0, f"reward {judgement.reward:.4g}" if judgement.is_valid else "not judged validly")
        facts += [f"{name} {as_value(score)}" for name, score in judgement.components.items()]
        faults = "".join(
            f'<p class="fault">{escaped(f"{fault.function}: {fault.error}")}</p>'
            for fault in judgement.faults
        )
    turns = "".join(
        f'<pre class="prompt"><b>{escaped(turn.role)}</b> {escaped(shortened(turn.text, _MOST_CHARACTERS))}</pre>'
        if isinstance(turn, Given)
        else f"<pre>{escaped(shortened(turn.text, _MOST_CHARACTERS))}</pre>"
        for turn in trajectory.turns
    )
    return f"{turns}<small>{escaped(' · '.join(facts))}</small>{faults}"
