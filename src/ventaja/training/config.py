"""What a run file can say. Each field is documented here, checked here, and is a dotted flag of the command.

`parse` turns nested plain values (a YAML file with flags laid over it) into a config, or raises ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)

from ventaja.errors import ConfigError
from ventaja.named import GIVEN_IN_PYTHON
from ventaja.settings import GENERATED, CpuWay, LoraSettings, Precision, Sampling, Settings
from ventaja.training.algorithms import ALGORITHMS, PARTS, Algorithm, customised, without_effect
from ventaja.training.parts import KINDS, Own, chosen
from ventaja.training.validation import explain, setting_hint

SHORT_FORMS = {
    "model": "name", "data": "source", "algorithm": "name", "reward": "functions", "engine": "kind", "environment": "kind",
}  # fmt: skip
"""`model: x` is short for `model: {name: x}`, and so on."""


def _not_empty(value: Any) -> Any:
    """An empty path would be the current folder."""
    if value == "":
        raise ValueError("must not be empty")
    return value


class ModelConfig(Settings):
    """The model to start from. `model: smollm2-135m` is short for `model: {name: smollm2-135m}`."""

    name: str = Field(min_length=1)
    """A short name (smollm2-135m), a folder (a run folder means its last checkpoint), or a hub id."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, …"""
    precision: Precision = "auto"
    """Compute precision; training keeps float32 master weights. auto: bfloat16 where the hardware has it."""
    cpu: CpuWay | None = None
    """On a CPU, fast takes compiled kernels and packed weights, and plain goes the ways written in torch: the same
    results up to rounding, slower. Unset, the environment variable VENTAJA_CPU says which, and without it fast."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights; true for those of the defaults."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Leave it off unless you have read that code."""
    chat_template: str | None = None
    """A Jinja chat template instead of the tokenizer's own: a file's path, or the template itself, which holds {{ or
    {%."""

    @field_validator("lora", mode="before")
    @classmethod
    def _true_is_the_defaults(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value


class SourceConfig(Settings):
    """Rows, and where they come from. A bare string is short for `{source: …}`."""

    source: str = Field(min_length=1)
    """A .jsonl, .json, .parquet or .csv file (.gz too), a folder or glob of them, a folder of save_to_disk, a task such
    as reasoning_gym:chain_sum, or a datasets name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the source: a task's own settings, or `split` and the like for datasets."""
    size: int | None = Field(None, ge=1)
    """Use this many rows, the first ones; for a generated task, make this many (1000 if unset)."""
    seed: int = 0
    """Seed of a generated task."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _only_tasks_are_seeded(self) -> SourceConfig:
        if "seed" in changed_settings(self) and isinstance(self.source, str) and not self.is_generated:
            raise ValueError(f"seed would have no effect: {self.source} is not generated. Leave it out")
        return self

    @property
    def is_generated(self) -> bool:
        """True if the rows are made from a seed."""
        return isinstance(self.source, str) and self.source.startswith(GENERATED)


class MixedSourceConfig(SourceConfig):
    """One source of several. A bare string is short for `{source: …}`."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How often each of its rows is used in a pass over the data: 2 twice, 0.5 in every second pass."""


_ONE = TypeAdapter(Annotated[str, Field(min_length=1)])
_SEVERAL = TypeAdapter(tuple[MixedSourceConfig, ...])


class DataConfig(SourceConfig):
    """Prompts or examples. `data: train.jsonl` is short for `data: {source: train.jsonl}`."""

    source: str | tuple[MixedSourceConfig, ...]  # type: ignore[assignment]
    """A .jsonl, .json, .parquet or .csv file (.gz too), a folder or glob of them, a folder of save_to_disk, a task such
    as reasoning_gym:chain_sum, or a datasets name. Or a list of these, to be mixed."""
    system_prompt: str | None = None
    """A system message before every prompt."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Leave out longer prompts, and say how many. Unset: a prompt that does not fit the model is an error."""
    exclude: tuple[SourceConfig, ...] = ()
    """Leave out rows that ask what one of these asks: problems that are held out for measuring."""

    @field_validator("source", mode="plain")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """Each item of a list is checked as a source and nothing else, so that its problems are named simply."""
        if isinstance(value, list | tuple) and not value:
            raise ValueError("the list of sources is empty")
        return (_SEVERAL if isinstance(value, list | tuple) else _ONE).validate_python(value)

    @model_validator(mode="after")
    def _a_list_holds_its_own_settings(self) -> DataConfig:
        if not isinstance(self.source, str):
            for name in ("options", "size", "seed"):
                if name in changed_settings(self):
                    raise ValueError(
                        f"{name} would have no effect: data.source is a list. Give each source its own, such as "
                        f"{{source: {self.source[0].source}, {name}: …}}"
                    )
        return self

    @property
    def sources(self) -> tuple[MixedSourceConfig, ...]:
        """Its sources: one, or those that are mixed."""
        if not isinstance(self.source, str):
            return self.source
        return (MixedSourceConfig(source=self.source, options=self.options, size=self.size, seed=self.seed),)

    @property
    def source_name(self) -> str:
        """For messages."""
        return self.source if isinstance(self.source, str) else ", ".join(part.source for part in self.source)


class SftDataConfig(DataConfig):
    """Examples. `data: train.jsonl` is short for `data: {source: train.jsonl}`."""

    max_tokens: int | None = Field(None, ge=1)
    """Longest example, prompt and answer together. Unset: what the model takes."""
    too_long: Literal["error", "leave_out", "truncate"] = "error"
    """What becomes of a longer one: it stops the run, is left out, or loses its end. How many is said."""


class RewardFunctionConfig(Settings):
    """One reward function. A bare string is short for `{function: …}`."""

    function: str
    """exact_match, regex, math_verify, reasoning_gym, path/to/file.py:function or package.module:function; or a reward model:
    its folder, the run folder of `ventaja reward`, or a hub id."""
    name: str | None = Field(None, min_length=1)
    """What it is reported under, as rewards/NAME; its own name if unset. No two rewards may share one."""
    weight: float = 1.0
    """Its weight in the sum."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of a built-in, e.g. {pattern: …} for regex; of a reward model see docs/reward-models.md."""
    steps: str | dict[str, str] | None = None
    """Judge an answer's steps, each on its own: line, sentence, turn, {tag: step} for what stands in <step>…</step>, or
    file.py:function for a function of your own, text → [(start, end), …]."""


class RewardConfig(Settings):
    """How answers are judged."""

    functions: tuple[RewardFunctionConfig, ...] = ()
    """The reward functions; the rewards add up. Empty: the task's own verifier."""
    gold: str | None = Field(None, min_length=1)
    """The name of a function of weight 0 that says what is really wanted, where the others stand in for it, as a reward
    model does. The report draws it against them over the distance from the reference, and the checkpoint with the highest
    `eval/gold` is kept."""
    timeout: float = Field(30.0, gt=0)
    """Seconds that one call may take; after that its samples are broken, not zero."""
    max_broken_fraction: float = Field(0.1, ge=0, le=1)
    """Stop the run when more than this fraction of a round's judgements is broken."""
    overlap: bool = False
    """Judge answers while others are still sampled. For slow rewards: functions then get answers as they end, in
    several calls a round, instead of all in one."""
    truncated: Literal["keep", "mask", "penalise"] = "keep"
    """Answers cut off by sampling.max_tokens: judge them as they are, leave them out of the update (DAPO's overlong
    filtering), or subtract truncation_penalty."""
    truncation_penalty: float | None = None
    """What `truncated: penalise` subtracts."""
    overlong_buffer: int | None = Field(None, ge=1)
    """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13): an answer that reaches into the last this many
    tokens before sampling.max_tokens loses up to overlong_penalty, in proportion."""
    overlong_penalty: float = Field(1.0, gt=0)
    """What an answer of sampling.max_tokens tokens loses, if overlong_buffer is set."""

    @field_validator("functions", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Mapping) else value
        if not isinstance(items, list | tuple):
            return items
        return [{"function": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="after")
    def _penalty_goes_with_penalise(self) -> RewardConfig:
        if (self.truncated == "penalise") != (self.truncation_penalty is not None):
            raise ValueError("truncated: penalise and truncation_penalty go together; set both or neither")
        if self.overlong_buffer is None and self.overlong_penalty != 1:
            raise ValueError("overlong_penalty would have no effect: set overlong_buffer too")
        return self


def _optional_parts() -> dict[str, Any]:
    """Every part of an algorithm as an optional setting, with its type and help text."""
    parts = {name: Algorithm.__pydantic_fields__[name] for name in PARTS}  # type: ignore[attr-defined]
    return {
        name: (part.annotation | None, Field(None, description=part.description))
        for name, part in parts.items()
    }


class _AlgorithmChoice(Settings):
    """An algorithm by name, and parts to change. `algorithm: grpo` is short for `algorithm: {name: grpo}`."""

    name: str = "grpo"
    """A row of `ventaja algorithms`."""

    def resolve(self) -> Algorithm:
        """The algorithm with its changed parts; functions of one's own have been tried on a few tiny tensors."""
        if self.name not in ALGORITHMS:
            raise ConfigError(
                f"algorithm.name: no algorithm {self.name!r}.{setting_hint(self.name, ALGORITHMS)} "
                f"There are: {', '.join(ALGORITHMS)}."
            )
        given = {part: value for part in PARTS if (value := getattr(self, part)) is not None}
        algorithm = customised(ALGORITHMS[self.name], **given)
        if any(isinstance(getattr(algorithm, kind), Own) for kind in KINDS):
            from ventaja.training.trial import (
                check_parts,  # with torch: a run file without own functions does without
            )

            check_parts(algorithm)
        return algorithm

    @field_validator(*KINDS, mode="plain", check_fields=False)
    @classmethod
    def _chosen(cls, value: Any, info: Any) -> Any:
        return None if value is None else chosen(info.field_name, value)

    @field_serializer(*KINDS, check_fields=False)
    def _as_text(self, value: Any) -> str | None:
        return None if value is None else str(value)


AlgorithmConfig = create_model(
    "AlgorithmConfig", __base__=_AlgorithmChoice, __doc__=_AlgorithmChoice.__doc__, **_optional_parts()
)


def algorithm_settings(algorithm: Algorithm) -> dict[str, Any]:
    """The settings of `algorithm:` in a run file that resolve to this algorithm."""
    base = ALGORITHMS.get(algorithm.name, ALGORITHMS["grpo"])
    changed = {
        part: getattr(algorithm, part)
        for part in PARTS
        if getattr(algorithm, part) != getattr(base, part) and without_effect(algorithm, part) is None
    }
    return {"name": base.name, **changed}


class AdamWConfig(Settings):
    """AdamW (arXiv:1711.05101) on float32 master weights."""

    learning_rate: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """Highest learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes after the warm-up: stays, or falls to 0 at the run's end."""
    warmup_updates: int = Field(0, ge=0)
    """Optimiser steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's β₁ and β₂."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""

    @model_validator(mode="after")
    def _betas_are_fractions(self) -> AdamWConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and less than 1, not {list(self.betas)}")
        return self


class OptimiserConfig(AdamWConfig):
    """AdamW (arXiv:1711.05101) on float32 master weights."""

    max_tokens: int = Field(4096, ge=1)
    """Tokens in one forward and backward pass; lower needs less memory and changes nothing else. Halved, and said
    so, where memory runs out."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: about a third more work, much less memory. Turned on, and said so,
    where a single sequence does not fit."""


class CriticConfig(Settings):
    """The critic, where algorithm.baseline is `critic`: a value for each token, learned beside the policy."""

    model: str | None = Field(None, min_length=1)
    """A model of its own that values are read from, trained in full (of an adapter folder the adapters): a short name, a
    folder or a hub id, with the policy's tokenizer. A reward model's folder begins with its rewards as values. Unset: they
    are read from the policy's last hidden states, with no forward pass of their own."""
    initial_value: float = Field(0.0, allow_inf_nan=False)
    """What every value is at first: a reward that is usual at the run's beginning."""
    head_learning_rate: float = Field(0.05, gt=0, allow_inf_nan=False)
    """Of the linear head that reads values: one step moves no value by much more than this."""
    through_trunk: bool = False
    """Train the policy's network on values too. Off: they are read from it, and the head alone learns them."""
    loss_weight: float = Field(0.1, gt=0, allow_inf_nan=False)
    """With `through_trunk`, the weight of the value loss beside the policy's."""
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    """If set, a value is pulled no further than this from what it was when the round was sampled (PPO's clipped value
    loss)."""
    bootstrap_truncated: bool = True
    """An answer that was cut off would have gone on: its return goes on with the value after its last token. Off: it
    ended there, with the reward that it got."""
    warmup_rounds: int = Field(0, ge=0)
    """So many rounds at first train the critic alone, on Monte-Carlo returns; the policy stays."""
    min_explained_variance: float | None = Field(None, lt=1, allow_inf_nan=False)
    """If set, the policy stays, and the critic learns Monte-Carlo returns, until its values have explained this share of a
    new round's variance."""
    optimiser: AdamWConfig = AdamWConfig()
    """Of the critic. Its learning rate is that of a model of its own; rows are as long as the policy's."""

    @model_validator(mode="after")
    def _trunks(self) -> CriticConfig:
        if self.model is not None and self.through_trunk:
            raise ValueError(
                "through_trunk would have no effect: a critic with a model of its own trains all of it"
            )
        if not self.through_trunk and self.loss_weight != 0.1:
            raise ValueError("loss_weight would have no effect: set through_trunk, where two losses meet")
        if self.model is None and self.optimiser.learning_rate != AdamWConfig().learning_rate:
            raise ValueError(
                "optimiser.learning_rate would have no effect: it is that of a critic with a model of its own. Set "
                "head_learning_rate"
            )
        return self


class SftOptimiserConfig(OptimiserConfig):
    """AdamW (arXiv:1711.05101) on float32 master weights."""

    learning_rate: float = Field(2e-5, gt=0, allow_inf_nan=False)
    """Highest learning rate."""


class EvalConfig(Settings):
    """Held-out problems. With a generated task they are made from another seed. None of them is trained on."""

    source: str | None = None
    """Where they come from; data.source if unset (generated tasks only)."""
    options: dict[str, Any] | None = None
    """Options of the source; data.options if unset and the source is data.source."""
    size: int = Field(200, ge=1)
    """How many problems."""
    seed: int = Field(1_000_003, ge=0)
    """Seed of a generated task, and of sampling."""
    every: int | None = Field(None, ge=1)
    """Measure after every this many rounds, and at the end. Unset: not during training."""


class SftEvalConfig(Settings):
    """Held-out examples. Their loss is `eval/loss`, and the checkpoint where it was lowest is kept."""

    source: str | None = None
    """Where they come from. Unset: a generated task makes others from another seed; of all other data, `size` rows
    are drawn and set aside. None of them is trained on."""
    options: dict[str, Any] | None = None
    """Options of the source; data.options if unset and the source is data.source."""
    size: int = Field(200, ge=1)
    """How many examples, at most."""
    seed: int = Field(1_000_003, ge=0)
    """Seed of a generated task, and of which rows are set aside."""
    every: int | None = Field(None, ge=1)
    """Measure after every this many optimiser steps, and at the end. Unset: not at all."""


class _JointSettings(Settings):
    """What a run may take from a user's own code."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of one of your own."""

    @field_validator("kind", check_fields=False)
    @classmethod
    def _built_in_or_named(cls, value: str) -> str:
        built_in = cls.model_fields["kind"].default
        if value != built_in and ":" not in value and not value.endswith(GIVEN_IN_PYTHON):
            raise ValueError(
                f"there is none called {value!r}. Built in is {built_in}; one of your own is path/to/file.py:name or "
                "package.module:name"
            )
        return value

    @property
    def is_own(self) -> bool:
        """True if it is a user's."""
        return self.kind != type(self).model_fields["kind"].default  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _options_are_an_own_ones(self) -> _JointSettings:
        if self.options and not self.is_own:
            raise ValueError("options would have no effect: they are the arguments of a kind of your own")
        return self


class EngineConfig(_JointSettings):
    """What samples the answers. `engine: file.py:name` is short for `engine: {kind: file.py:name}`."""

    kind: str = "local"
    """local (in this process), or one of your own: path/to/file.py:name or package.module:name."""
    max_batch: int = Field(128, ge=1)
    """Most answers that the local engine samples at once."""

    @model_validator(mode="after")
    def _max_batch_is_the_local_ones(self) -> EngineConfig:
        if self.is_own and self.max_batch != 128:
            raise ValueError(
                f"max_batch would have no effect: {self.kind} is not the local engine. Use options"
            )
        return self


class EnvironmentConfig(_JointSettings):
    """Where prompts are asked and answers judged. `environment: file.py:name` is short for
    `environment: {kind: file.py:name}`."""

    kind: str = "single_turn"
    """single_turn (one question, one answer, judged by `reward`), or one of your own: path/to/file.py:name or
    package.module:name. It gets those of `prompts`, `rewards` and its options that it takes."""


class RunConfig(Settings):
    """Where the run goes, how long it is, and what it keeps."""

    folder: Path
    """The run folder. It must be new or empty, unless `resume` is on. One process at a time writes to it."""
    seed: int = Field(0, ge=0, lt=2**64)
    """Seed of every random choice of the training itself: the order of rows, sampling, minibatches, new adapters.
    What a task generates follows from data.seed and eval.seed."""
    resume: bool = False
    """Go on from the folder's last checkpoint; begin if there is none. A run that is over goes on if it is made longer."""
    checkpoint_every: int | None = Field(20, ge=1)
    """Checkpoint after every this many optimiser steps; null: only at the end, and when the run is stopped."""
    keep_checkpoints: int = Field(1, ge=1)
    """Keep this many of the newest checkpoints."""
    max_memory: float | None = Field(None, gt=0)
    """Most memory to take, in GiB: the GPU's, or this process's data on a CPU (Linux). Unset: all there is."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where metrics go, besides metrics.jsonl."""

    _is_named = field_validator("folder", mode="before")(_not_empty)


class RlRunConfig(RunConfig):
    """Where the run goes, how long it is, and what it keeps."""

    rounds: int = Field(100, ge=1)
    """Rounds of sampling and learning."""
    completions_per_round: int = Field(128, ge=1)
    """Answers sampled per round, over all prompts: prompts = this / algorithm.group_size."""


class SftRunConfig(RunConfig):
    """Where the run goes, how long it is, and what it keeps."""

    updates: int | None = Field(None, ge=1)
    """Optimiser steps. Unset: `epochs` passes over the data."""
    epochs: int = Field(1, ge=1)
    """Passes over the data, when `updates` is unset: n epochs use every example exactly n times."""
    batch_size: int = Field(16, ge=1)
    """Examples per optimiser step. The last step of a pass takes what is left, which may be fewer."""


class Config(Settings):
    """The shape that every run file shares: a bare string for model, data or algorithm is its name."""

    moved: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Settings of earlier versions and where they are now, so that their run files and folders are read."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            group: {SHORT_FORMS[group]: item}
            if group in SHORT_FORMS and isinstance(item, str | list)
            else item
            for group, item in _moved(value, cls.moved).items()
        }


def _moved(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The values with what earlier versions called otherwise under its name of today, unless that is given too."""
    result = {name: dict(group) if isinstance(group, Mapping) else group for name, group in values.items()}
    for old, new in names.items():
        group, _, name = old.rpartition(".")
        home = result.get(group) if group else result
        if not isinstance(home, dict) or name not in home:
            continue
        new_group, _, new_name = new.rpartition(".")
        target = result.setdefault(new_group, {})
        if isinstance(target, dict) and new_name not in target:
            target[new_name] = home.pop(name)
    return result


class RolloutConfig(Config):
    """What is played through and judged: a run's rollouts, and a measurement's."""

    model: ModelConfig
    data: DataConfig | None = None
    environment: EnvironmentConfig = EnvironmentConfig()
    reward: RewardConfig = RewardConfig()
    engine: EngineConfig = EngineConfig()
    sampling: Sampling = Sampling()

    @model_validator(mode="before")
    @classmethod
    def _our_environment_needs_data(cls, value: Any) -> Any:
        """Without data it is data.source that must be set, unless an environment brings its own prompts."""
        if not isinstance(value, Mapping) or value.get("data") is not None:
            return value
        environment = value.get("environment")
        kind = environment.get("kind") if isinstance(environment, Mapping) else environment
        return value if kind not in (None, EnvironmentConfig().kind) else {**value, "data": {}}


class RlConfig(RolloutConfig):
    """A reinforcement-learning run (`ventaja rl`)."""

    moved: ClassVar[Mapping[str, str]] = MappingProxyType({"run.max_batch": "engine.max_batch"})

    algorithm: AlgorithmConfig = AlgorithmConfig()
    critic: CriticConfig = CriticConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    eval: EvalConfig = EvalConfig()
    run: RlRunConfig

    def chosen_algorithm(self) -> Algorithm:
        """The algorithm of this run: its minibatches are a number, also where their size is given."""
        algorithm = self.algorithm.resolve()
        if algorithm.minibatch_size is None:
            return algorithm
        parts = self.run.completions_per_round // algorithm.minibatch_size
        return replace(algorithm, minibatches=parts, minibatch_size=None)

    @model_validator(mode="after")
    def _check(self) -> RlConfig:
        algorithm = self.algorithm.resolve()
        if not algorithm.has_critic and (changed := changed_settings(self.critic)):
            raise ValueError(
                f"critic.{changed[0]} would have no effect: algorithm.baseline is {algorithm.baseline}, which has no critic"
            )
        if self.run.completions_per_round % algorithm.group_size:
            raise ValueError(
                f"run.completions_per_round ({self.run.completions_per_round}) must be a multiple of "
                f"algorithm.group_size ({algorithm.group_size})"
            )
        _check_minibatches(algorithm, self.run.completions_per_round)
        alpha, most = algorithm.adaptive_lambda, self.sampling.max_tokens
        if alpha is not None and not self.environment.is_own and 1 - 1 / (alpha * most) <= algorithm.lambda_:
            raise ValueError(
                f"algorithm.adaptive_lambda ({alpha}) would have no effect: of {most} tokens (sampling.max_tokens) it makes λ "
                f"{1 - 1 / (alpha * most):.3g}, and algorithm.lambda_ ({algorithm.lambda_}) is the least that λ may be. Lower "
                "lambda_ (VAPO has 0.0), or raise adaptive_lambda"
            )
        if not self.critic.bootstrap_truncated and self.reward.truncated == "mask":
            raise ValueError(
                "critic.bootstrap_truncated would have no effect: with reward.truncated mask, answers that were cut off take "
                "no part"
            )
        if self.sampling.temperature == 0:
            raise ValueError(
                "sampling.temperature must be above 0: greedy answers of a prompt are all the same"
            )
        buffer = self.reward.overlong_buffer
        if buffer is not None and buffer >= self.sampling.max_tokens:
            raise ValueError(
                f"reward.overlong_buffer ({buffer}) must be less than sampling.max_tokens "
                f"({self.sampling.max_tokens}): it would punish every answer for its length"
            )
        if self.eval.every is not None and self.eval.source is None and self.data is None:
            raise ValueError(
                "eval.source: must be set, for there is no data whose task could make other problems"
            )
        _check_eval_is_used(self.eval)
        return self


def _check_minibatches(algorithm: Algorithm, completions: int) -> None:
    """Raises ValueError if a round cannot be cut into the algorithm's minibatches."""
    size, whole = algorithm.minibatch_size, algorithm.shuffle == "groups"
    if size is not None:
        if completions % size:
            raise ValueError(
                f"run.completions_per_round ({completions}) must be a multiple of algorithm.minibatch_size ({size})"
            )
        if whole and size % algorithm.group_size:
            raise ValueError(
                f"algorithm.minibatch_size ({size}) must be a multiple of algorithm.group_size ({algorithm.group_size}), "
                "for whole groups are dealt out: change one of them, or set algorithm.shuffle to trajectories"
            )
        return
    most, things = (completions // algorithm.group_size, "prompts") if whole else (completions, "answers")
    if algorithm.minibatches > most:
        raise ValueError(
            f"algorithm.minibatches ({algorithm.minibatches}) is more than a round has {things} ({most}): "
            "raise run.completions_per_round or lower minibatches"
        )


def _check_eval_is_used(group: EvalConfig | SftEvalConfig) -> None:
    if group.every is None and (changed := changed_settings(group)):
        raise ValueError(f"eval.{changed[0]} would have no effect: set eval.every to measure during training")


class SftConfig(Config):
    """A supervised run (`ventaja sft`)."""

    model: ModelConfig
    data: SftDataConfig
    optimiser: SftOptimiserConfig = SftOptimiserConfig()
    eval: SftEvalConfig = SftEvalConfig()
    run: SftRunConfig

    @model_validator(mode="after")
    def _check(self) -> SftConfig:
        if self.run.updates is not None and "epochs" in changed_settings(self.run):
            raise ValueError("run.epochs would have no effect, because run.updates is set: leave one out")
        _check_eval_is_used(self.eval)
        return self


class EvaluationConfig(RolloutConfig):
    """A measurement of one model on one task (`ventaja eval`)."""

    moved: ClassVar[Mapping[str, str]] = MappingProxyType({"max_batch": "engine.max_batch"})

    samples: int = Field(4, ge=1)
    """Sampled answers per problem: accuracy is their mean, pass@k comes from them."""
    seed: int = Field(0, ge=0)
    """Seed of sampling."""
    output: Path | None = None
    """Write every answer and its judgement to this Parquet file."""

    _is_named = field_validator("output", mode="before")(_not_empty)

    @field_validator("output")
    @classmethod
    def _is_called_parquet(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in {"", ".parquet"}:
            raise ValueError(
                f"answers are written as Parquet, which {value.name} would not say. Call it "
                f"{value.with_suffix('.parquet')}"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> EvaluationConfig:
        if self.model.lora is not None:
            raise ValueError(
                "model.lora would have no effect: it makes new adapters. An adapter folder is given as model.name"
            )
        for name in ("truncated", "overlong_buffer"):
            if name in changed_settings(self.reward):
                raise ValueError(
                    f"reward.{name} would have no effect: it acts on training, and this only measures"
                )
        if self.data is not None and any(part.weight != 1 for part in self.data.sources):
            raise ValueError(
                "data.source: a weight would have no effect, for every problem is measured once. Leave it out"
            )
        if self.sampling.temperature == 0 and self.samples > 1:
            raise ValueError(
                "sampling.temperature 0 makes all samples of a problem the same. Leave it out: the greedy answer is "
                "measured anyway"
            )
        return self


ConfigT = TypeVar("ConfigT", bound=Config)


def parse(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Validate nested plain values. Raises ConfigError that names each problem and the nearest right name."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, known=setting_names(kind))) from error


def changed_settings(group: Settings) -> list[str]:
    """The names of a group's settings that are not at their defaults, in alphabetical order."""
    return sorted(
        name
        for name, field in type(group).model_fields.items()
        if getattr(group, name) != field.get_default(call_default_factory=True)
    )


def resolved(group: Settings) -> dict[str, Any]:
    """Every setting as plain values that `parse` reads back; None is left out where it is the default."""
    values = {}
    for name, value in group.model_dump(mode="json").items():
        inner = getattr(group, name)
        if isinstance(inner, Settings):
            value = resolved(inner)
        if value is not None or type(group).model_fields[name].default is not None:
            values[name] = value
    return values


def setting_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted name that a config of this kind can set, groups and what lists hold included."""
    names = []
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        names.append(path)
        for inner in _groups_in(field.annotation):
            names += setting_names(inner, f"{path}.")
    return names


def _groups_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for option in getattr(annotation, "__args__", ()) for inner in _groups_in(option)]
