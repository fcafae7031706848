"""What becomes of answers that a limit cut off, or nearly did: decided here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ventaja.functional import soft_overlong_punishment
from ventaja.records import Judgement, Trajectory
from ventaja.training.config import RewardConfig, RlConfig


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """The settings `reward.truncated` and `reward.overlong_…`, and the longest allowed answer."""

    how: RewardConfig
    max_tokens: int

    @classmethod
    def of(cls, config: RlConfig) -> Truncation:
        return cls(how=config.reward, max_tokens=config.sampling.max_tokens)

    def takes_part(self, trajectory: Trajectory) -> bool:
        """False for a truncated trajectory that is masked: it has no part in loss, baseline or scale."""
        return not (trajectory.is_truncated and self.how.truncated == "mask")

    def rewards(self, trajectory: Trajectory, judgement: Judgement) -> list[tuple[int, float]]:
        """The judgement's stream with every penalty for length, earned at the trajectory's last token."""
        stream = list(judgement.stream)
        last = len(trajectory) - 1
        if trajectory.is_truncated and self.how.truncation_penalty is not None:
            stream.append((last, -self.how.truncation_penalty))
        if self.how.overlong_buffer is not None:
            longest = max(map(len, trajectory.completions))  # of several turns, each of which may be so long
            punishment = soft_overlong_punishment(
                torch.tensor([longest]), max_length=self.max_tokens, buffer=self.how.overlong_buffer
            )
            if punishment < 0:
                stream.append((last, self.how.overlong_penalty * float(punishment)))
        return stream


AS_JUDGED = Truncation(how=RewardConfig(), max_tokens=0)
"""Rewards without any penalty of ours."""
