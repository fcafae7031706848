"""A reward model as a reward function: answers are scored from the tokens that were sampled."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator

from ventaja.environments import Reward, completion_text, log_metric
from ventaja.errors import ConfigError
from ventaja.models import judged_tokens, load_reward_model, render_prompt
from ventaja.models.chat import Tokenizer
from ventaja.models.judged import differing_tokens, same_tokens
from ventaja.records import Answer, Prompt
from ventaja.settings import Precision, Settings
from ventaja.training.config import changed_settings
from ventaja.training.reward_model import batch_of, score_batch
from ventaja.training.row_budget import RowBudget
from ventaja.training.validation import explain


class ModelRewardOptions(Settings):
    """The options of a reward that is a reward model's folder."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, …: its own, which need not be the policy's."""
    precision: Precision | None = None
    """What it computes in. Unset: what its weights were saved in."""
    row_tokens: int = Field(8192, ge=1)
    """Tokens in one forward pass; halved where memory runs out."""
    read: Literal["tokens", "text"] = "tokens"
    """tokens: the sampled tokens as they are; the policy must have its tokenizer. text: answers are encoded anew."""
    normalise: Literal["none", "held_out"] = "none"
    """held_out: less the mean, and by the standard deviation, of its rewards on the answers that were held out in its
    training. none: the score less that of the line, if it has learned one."""
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    """If set, rewards stay between −clip and clip."""
    ensemble: Literal["mean", "worst", "penalised"] = "mean"
    """What is made of an ensemble's heads: their mean, the least of them, or the mean less penalty · variance."""
    penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    """λ of `ensemble: penalised` (arXiv:2310.02743)."""

    @model_validator(mode="after")
    def _check(self) -> ModelRewardOptions:
        if self.ensemble != "penalised" and "penalty" in changed_settings(self):
            raise ValueError("penalty would have no effect: set ensemble to penalised")
        return self


class ModelReward:
    """Rewards (score less line) of answers, a batch at a time. A reward function like any other."""

    least_timeout = 3600.0
    """It computes on its own, so reward.timeout, which is for functions that hang, does not cut it off."""

    def __init__(self, folder: str, options: ModelRewardOptions, *, name: str) -> None:
        self.name = name
        self.options = options
        self.network = load_reward_model(folder, device=options.device, precision=options.precision)
        self.network.freeze()
        self.budget = RowBudget(options.row_tokens, self.network, note=lambda text: None)
        self.is_same: bool | None = False if options.read == "text" else None
        """True if the policy is known to have the same tokens."""
        self._lock = threading.Lock()
        heads, facts = self.network.heads.heads, self.network.facts
        if options.ensemble != "mean" and heads == 1:
            raise ConfigError(
                f"the reward {name!r}: ensemble: {options.ensemble} would have no effect, for {folder} has one head. Train one with "
                "head.ensemble, or leave it out."
            )
        if options.normalise == "held_out" and facts.answers == 0:
            raise ConfigError(
                f"the reward {name!r}: normalise: held_out needs the mean and spread of its rewards on held-out answers, which "
                f"{folder} does not have: it was trained with nothing held out, or elsewhere. Leave it out."
            )

    def meet(self, tokenizer: Tokenizer, *, policy: str) -> None:
        """Be told whose tokens will be read. Raises ConfigError if they mean something else here."""
        if self.options.read == "text":
            return
        if not same_tokens(self.network.tokenizer, tokenizer):
            differing = differing_tokens(self.network.tokenizer, tokenizer)
            raise ConfigError(
                f"the reward {self.name!r}: the reward model {self.network.name} has another tokenizer than {policy} "
                f"({differing} of its {len(tokenizer.get_vocab())} tokens have another number or none), so it would read other "
                "words than were written. Set the reward's options to {read: text} to have answers encoded anew, or train a "
                "reward model from a model of the policy's family."
            )
        self.is_same = True

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, str]]],
        completions: Sequence[str | Sequence[Mapping[str, str]]],
        completion_ids: Sequence[Sequence[int]],
    ) -> list[float]:
        """One reward for each completion."""
        asked = {repr(each): _prompt(each) for each in prompts}
        prompt_ids = {each: render_prompt(self.network.tokenizer, prompt) for each, prompt in asked.items()}
        read = [
            judged_tokens(
                self.network,
                asked[repr(question)],
                Answer(text=completion_text(said), token_ids=tuple(ids) or None),
                max_tokens=self.network.facts.max_tokens or self.network.context_length,
                is_same=self.is_same if ids else False,
                prompt_ids=prompt_ids[repr(question)],
            )
            for question, said, ids in zip(prompts, completions, completion_ids, strict=True)
        ]
        with self._lock:  # several calls at once would only share the same device
            score_SE = score_batch(self.network, batch_of(read), self.budget)
        reward_SE = score_SE.double() - self.network.heads.line_E.cpu().double()
        if reward_SE.shape[1] > 1:
            log_metric(f"{self.name}_spread", float(reward_SE.std(dim=1, correction=0).mean()))
        if cut := sum(tokens.is_cut for tokens in read):
            log_metric(f"{self.name}_cut_off", cut / len(read))
        return self._finished(reward_SE).tolist()

    def _finished(self, reward_SE: torch.Tensor) -> torch.Tensor:
        """One reward of each answer, from those of all heads."""
        o, facts = self.options, self.network.facts
        if o.normalise == "held_out":
            reward_SE = (reward_SE - facts.mean) / facts.std
        reward_S = reward_SE.mean(dim=1)
        if o.ensemble == "worst":
            reward_S = reward_SE.min(dim=1).values
        elif o.ensemble == "penalised":
            reward_S = reward_S - o.penalty * reward_SE.var(dim=1, correction=0)
        return reward_S if o.clip is None else reward_S.clamp(-o.clip, o.clip)


def is_model(function: object) -> bool:
    """True for a reward that is named by a folder rather than by a function or a built-in's name."""
    if not isinstance(function, str) or ":" in function or function.endswith(".py"):
        return False
    return Path(function).expanduser().is_dir() or "/" in function


def load_model_reward(
    folder: str, *, name: str | None, weight: float, options: Mapping[str, Any], steps: Any = None
) -> Reward:
    """The reward that a reward model's folder, its run's folder or a hub id names.

    Raises ConfigError for options that it does not have, ModelError if it is no reward model.
    """
    shown = name or Path(folder).name
    if steps is not None:
        raise ConfigError(
            f"the reward {shown!r}: a reward model scores whole answers, so steps cannot be set."
        )
    try:
        given = ModelRewardOptions.model_validate(dict(options))
    except ValidationError as error:
        known = list(ModelRewardOptions.model_fields)
        raise ConfigError(f"the reward {shown!r}: {explain(error, known=known)}") from error
    return Reward(ModelReward(folder, given, name=shown), shown, weight)


def meet_all(rewards: Sequence[Reward], tokenizer: Tokenizer, *, policy: str) -> None:
    """Tell the reward models among some rewards whose tokens they will read."""
    for reward in rewards:
        if isinstance(reward, Reward) and isinstance(reward.function, ModelReward):
            reward.function.meet(tokenizer, policy=policy)


def _prompt(asked: str | Sequence[Mapping[str, str]]) -> Prompt:
    if isinstance(asked, str):
        return Prompt(id=f"the prompt {asked[:40]!r}", content=asked)
    content: Any = tuple(dict(message) for message in asked)
    return Prompt(id=f"the prompt {str(asked[-1]['content'])[:40]!r}", content=content)
