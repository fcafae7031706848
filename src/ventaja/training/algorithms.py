"""The algorithm table: every policy-gradient method here is a choice of parts, written where they compare.

The loop reads only the parts and is blind to the names. Adding an algorithm is a line here and a golden test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Literal

from pydantic import ConfigDict, field_validator, model_validator
from pydantic.dataclasses import dataclass

from ventaja.errors import ConfigError
from ventaja.named import GIVEN_IN_PYTHON
from ventaja.training.parts import CLIPS, KINDS, Own, Part, chosen, part_of

Function = Callable[..., Any]
"""A part of one's own (training/parts.py says what it is called with). It is kept with the name that files show."""
Baseline = (
    Literal[
        "none", "constant", "running_mean", "batch_mean", "leave_one_out", "group_mean", "greedy", "critic"
    ]
    | Function
)
Scale = Literal["none", "group_std", "batch_std", "minibatch_std"] | Function
Ratio = Literal["none", "token", "sequence", "trajectory"] | Function
Surrogate = Literal["policy_gradient", "clipped", "detached_clamp"] | Function
TokenWeight = Literal["sequence_sum", "sequence_mean", "token_mean", "fixed_length"] | Function
KlEstimator = Literal["k1", "k2", "k3", "k3+", "k3_weighted", "exact"] | Function


@dataclass(
    frozen=True,
    kw_only=True,
    config=ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False),
)
class Algorithm:
    """One choice for every part. `dataclasses.replace(GRPO, clip_high=0.28)` makes another algorithm, and so does a
    function of one's own in a part's place: `replace(GRPO, surrogate=my_loss)`."""

    name: str
    """What the run calls it."""
    paper: str = ""
    """Where it comes from."""

    credit: Literal["sequence", "to_go", "gae", "process", "process_min"] = "sequence"
    """What a token is credited with: the whole answer's reward, only the rewards from it onwards, or the generalised
    advantage estimate of a critic. With judges of steps also `process`, the sum from it onwards of step rewards that were
    compared with all steps of the group (DeepSeekMath), or `process_min`, the least of them from it onwards (PURE)."""
    discount: float = 1.0
    """γ of `to_go`, `gae` and `process`."""
    discount_per: Literal["token", "step"] = "token"
    """What γ counts, and λ of `gae`: the chosen tokens up to a reward, or the rewarded steps that end before it."""
    lambda_: float = 0.95
    """λ of `gae`: 1 trusts rewards alone (returns less the critic), 0 the critic's next value alone (TD)."""
    adaptive_lambda: float | None = None
    """α of VAPO (arXiv:2504.05118): an answer of l tokens has λ = 1 − 1/(α·l), but never less than `lambda_`."""
    baseline: Baseline = "none"
    """What is subtracted from the reward: how good an answer was expected to be. `greedy` is the reward of one greedy
    answer to the same prompt (ReMax), `critic` a value learned for each token (settings in the group `critic`)."""
    baseline_value: float = 0.0
    """The constant of baseline `constant`."""
    critic_lambda: float = 1.0
    """λ of the returns that the critic learns; 1 are Monte-Carlo returns."""
    scale: Scale = "none"
    """What advantages are divided by. `batch_std` and `minibatch_std` centre them over the tokens of a round or of a
    minibatch too (whitening), after the baseline if there is one."""

    ratio: Ratio = "token"
    """Probability ratio to the sampling policy: per token, the sequence's geometric mean, or its product."""
    surrogate: Surrogate = "clipped"
    """The loss of a token: −log π·Â (times the ratio, if any), PPO's clipped surrogate, or CISPO's."""
    clip_low: float = 0.2
    """ε_low: the ratio is clipped below at 1 − ε_low."""
    clip_high: float = 0.2
    """ε_high: the ratio is clipped above at 1 + ε_high. For CISPO too: TRL writes the cap itself, and its
    epsilon_high 5.0 is clip_high 4.0 here."""
    dual_clip: float | None = None
    """c of dual-clip PPO (arXiv:1912.09729): the loss of a token with Â < 0 is at most −c·Â. Usual is 3."""
    token_weight: TokenWeight = "sequence_mean"
    """How tokens count. `fixed_length` divides each answer's sum by the longest allowed answer."""
    ramp_tokens: int = 0
    """Over so many first tokens of an answer the weight rises from `ramp_start` times to its full size."""
    ramp_start: float = 0.0
    """What the first token of an answer counts of its weight, if `ramp_tokens` is set."""

    kl: Literal["none", "reward", "loss"] = "none"
    """Where the KL to the reference model enters."""
    kl_estimator: KlEstimator = "k3"
    """Estimator of that KL at the sampled tokens. In the loss: k3+ is k3 with k2's gradient (straight-through),
    k3_weighted is k3 times the ratio to the sampling policy (DeepSeek-V3.2), and exact sums over the vocabulary, with
    a forward pass of the reference in every update."""
    kl_coef: float = 0.0
    """β: the weight of the KL."""
    kl_target: float | None = None
    """If set, β adapts so that the KL per token stays near this value."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus, exact over the vocabulary: of its mean over the update's tokens, however tokens are
    weighed, so that it does not grow with the answers' length."""
    entropy_target: float | None = None
    """If set, `entropy_coef` adapts so that the entropy per token stays near this many nats."""

    group_size: int = 1
    """Completions per prompt."""
    epochs: int = 1
    """Passes over one round's samples, each with minibatches drawn anew. Answers that cannot change an update
    (advantage 0, and no KL or entropy in the loss) are left out."""
    minibatches: int = 1
    """Parts of a pass. Each makes one optimiser step, or none if nothing in it teaches."""
    minibatch_size: int | None = None
    """Instead of `minibatches`: answers in each part of a pass; run.completions_per_round says how many parts."""
    shuffle: Literal["groups", "trajectories"] = "groups"
    """What is dealt out to minibatches: whole groups, whose answers share the computation of their prompt, or single
    answers, so that those of a prompt meet or part by chance and the prompt is computed in each part."""
    max_approx_kl: float | None = None
    """Make no further update on a round's samples once an update has found approx_kl above this (the target_kl of
    Stable-Baselines3 and CleanRL)."""
    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal by fresh ones before the update."""
    max_sampling_factor: float = 3.0
    """Dynamic sampling gives up after this many times the round's prompts."""

    @property
    def updates_per_round(self) -> int:
        return self.epochs * self.minibatches

    @property
    def is_on_policy(self) -> bool:
        """True if every update sees only samples of the current weights, so that the ratio is 1."""
        return self.ratio == "none" or (self.updates_per_round == 1 and self.minibatch_size is None)

    @property
    def has_critic(self) -> bool:
        """True if a value is learned for each token."""
        return self.baseline == "critic"

    @property
    def has_minibatches(self) -> bool:
        """True if a pass has more than one part."""
        return self.minibatches > 1 or self.minibatch_size is not None

    @property
    def needs_reference(self) -> bool:
        return self.kl != "none"

    @property
    def uses_clip(self) -> bool:
        """True if the surrogate asks for one of the clip's settings."""
        return bool(self.part("surrogate").settings)

    @property
    def reports_clip(self) -> bool:
        """True if it is known which tokens the clip holds."""
        return self.part("surrogate").clip is not None

    @property
    def compares_groups(self) -> bool:
        """True if advantages are made group by group, out of a table of each prompt's returns."""
        return self.part("baseline").within_groups or any(
            isinstance(part, Own) for part in (self.baseline, self.scale)
        )

    @property
    def compares_steps(self) -> bool:
        """True if each step's reward is compared with those of all steps of its group."""
        return self.credit in ("process", "process_min")

    @property
    def trains_every_token(self) -> bool:
        """True if the loss acts on tokens whose advantage is 0 too."""
        return self.kl == "loss" or self.entropy_coef != 0 or self.part("surrogate").acts_at_zero

    @property
    def first_loss_is_zero(self) -> bool:
        """True if the loss is 0 where the ratio is 1: each answer counts alike, and a group's advantages add up to
        0. (A KL in the loss is 0 there as well, where the policy still is the reference.)"""
        is_ratio = self.ratio != "none" and self.surrogate in ("clipped", "policy_gradient")
        is_centred = self.part("baseline").within_groups and self.scale in ("none", "group_std")
        are_known = not isinstance(self.ratio, Own) and not isinstance(self.kl_estimator, Own)
        counts_alike = (
            self.token_weight == "sequence_mean" and self.credit == "sequence" and not self.entropy_coef
        )
        return is_ratio and is_centred and are_known and counts_alike

    def part(self, kind: str) -> Part:
        """What is known of the choice for a part that is a function."""
        return part_of(kind, getattr(self, kind))

    @field_validator(*KINDS, mode="plain")
    @classmethod
    def _chosen(cls, value: Any, info: Any) -> Any:
        return chosen(info.field_name, value)

    @model_validator(mode="after")
    def _check(self) -> Algorithm:
        for name in ("group_size", "epochs", "minibatches", "minibatch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("lambda_", "critic_lambda", "ramp_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be above 0 and at most 1")
        if self.adaptive_lambda is not None and self.adaptive_lambda <= 0:
            raise ValueError("adaptive_lambda must be above 0; VAPO has 0.05")
        if self.ramp_tokens < 0:
            raise ValueError("ramp_tokens must not be negative")
        if self.minibatch_size is not None and self.minibatches != 1:
            raise ValueError("minibatches and minibatch_size say the same: set one of them")
        if self.credit == "gae" and not self.has_critic:
            raise ValueError(
                f"credit gae compares rewards with the values of a critic, but baseline is {self.baseline}: set "
                "baseline to critic, or credit to to_go"
            )
        surrogate, baseline = self.part("surrogate"), self.part("baseline")
        if self.group_size < 2 and (baseline.within_groups or self.scale == "group_std"):
            part = f"baseline {self.baseline}" if baseline.within_groups else "scale group_std"
            raise ValueError(
                f"{part} compares the answers of one prompt, so group_size must be at least 2, not "
                f"{self.group_size}. Raise group_size, or use baseline running_mean or batch_mean"
            )
        if self.scale == "group_std" and self.baseline != "group_mean":
            raise ValueError(
                f"scale group_std needs baseline group_mean, and baseline is {self.baseline}: set scale to none, to "
                "batch_std or to a function of your own"
            )
        if self.credit == "to_go" and baseline.within_groups:
            raise ValueError(f"credit to_go needs a baseline per token; {self.baseline} is one per answer")
        if self.compares_steps and self.kl == "reward":
            raise ValueError(
                f"credit {self.credit} compares the rewards of steps, and a KL in the reward is at every token: set kl to loss"
            )
        if self.compares_steps and self.baseline not in ("none", "group_mean"):
            raise ValueError(
                f"credit {self.credit} compares each step with all steps of the group, and no answers: set baseline to "
                f"group_mean or none, not {self.baseline}"
            )
        for part in ("baseline", "scale"):
            if self.compares_steps and isinstance(getattr(self, part), Own):
                raise ValueError(
                    f"a {part} of one's own looks at one return per answer, and credit {self.credit} has a reward per step: "
                    "set credit to sequence"
                )
            if (self.credit != "sequence" or self.has_critic) and isinstance(getattr(self, part), Own):
                per_token = f"credit {self.credit}" if self.credit != "sequence" else "baseline critic"
                raise ValueError(
                    f"a {part} of one's own looks at one return per answer, and {per_token} has one per token: set "
                    f"{'credit to sequence' if self.credit != 'sequence' else 'scale to none or batch_std'}"
                )
        if self.dynamic_sampling and self.group_size < 2:
            raise ValueError(
                "dynamic_sampling drops groups whose rewards are all equal: group_size must be ≥ 2"
            )
        if self.scale in ("batch_std", "minibatch_std") and baseline.uniform:
            raise ValueError(
                f"scale {self.scale} centres the advantages itself, so baseline {self.baseline} would have no effect: "
                "set baseline to none, or scale to none"
            )
        if surrogate.clip and self.ratio == "none":
            raise ValueError(f"surrogate {self.surrogate} clips a ratio: set ratio to token or sequence")
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError("clip_low must be from 0 to 1, and clip_high must not be negative")
        if self.dual_clip is not None and "dual_clip" not in surrogate.settings:
            raise ValueError(f"dual_clip bounds the clipped surrogate, but surrogate is {self.surrogate}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError("dual_clip must be above 1, where the ratio starts; usual is 3")
        if self.max_approx_kl is not None and self.max_approx_kl <= 0:
            raise ValueError("max_approx_kl must be above 0")
        if self.kl_coef < 0:
            raise ValueError("kl_coef must not be negative")
        if self.ratio == "none" and (self.updates_per_round > 1 or self.minibatch_size is not None):
            raise ValueError(
                "several updates per round (epochs × minibatches) use samples of older weights: set ratio to "
                "token, sequence or trajectory, or epochs and minibatches to 1"
            )
        if (self.kl == "none") != (self.kl_coef == 0):
            raise ValueError("kl and kl_coef go together: set both, or kl to none and kl_coef to 0")
        if self.kl_target is not None and self.kl == "none":
            raise ValueError("kl_target adapts kl_coef, but kl is none")
        if self.kl_target is not None and self.kl_target <= 0:
            raise ValueError("kl_target must be above 0")
        if self.entropy_target is not None and self.entropy_coef <= 0:
            raise ValueError(
                "entropy_target adapts entropy_coef, which must be above 0 to begin with; usual is 0.001"
            )
        if self.entropy_target is not None and self.entropy_target <= 0:
            raise ValueError("entropy_target must be above 0")
        if self.kl == "reward" and "reward" not in self.part("kl_estimator").kl_in:
            raise ValueError("kl in the reward is the estimate's value: use k1 (unbiased) or k3")
        if self.kl == "loss" and "loss" not in self.part("kl_estimator").kl_in:
            raise ValueError(
                "kl in the loss acts by its gradient, and k1's is 0 on average: use k2, k3, k3+, k3_weighted or exact"
            )
        if self.max_sampling_factor < 1:
            raise ValueError("max_sampling_factor must be at least 1: a round's prompts are sampled once")
        return self


REINFORCE = Algorithm(
    name="reinforce", paper="Williams 1992",
    baseline="running_mean", ratio="none", surrogate="policy_gradient", token_weight="sequence_sum",
)  # fmt: skip
RLOO = replace(
    REINFORCE, name="rloo", paper="arXiv:2402.14740",
    baseline="leave_one_out", group_size=4, kl="reward", kl_estimator="k1", kl_coef=0.05,
)  # fmt: skip
REMAX = replace(
    REINFORCE, name="remax", paper="arXiv:2310.10505",
    baseline="greedy", kl="reward", kl_estimator="k1", kl_coef=0.05,
)  # fmt: skip
PPO = Algorithm(
    name="ppo", paper="arXiv:1707.06347",
    credit="gae", lambda_=0.95, baseline="critic", scale="batch_std", ratio="token", surrogate="clipped",
    token_weight="token_mean", kl="reward", kl_estimator="k1", kl_coef=0.05,
    epochs=2, minibatches=4,
)  # fmt: skip
PPO_CLIP = replace(PPO, name="ppo_clip", credit="to_go", baseline="none")
REINFORCE_PP = replace(
    PPO_CLIP, name="reinforce_pp", paper="arXiv:2501.03262",
    kl_coef=0.01, epochs=1, minibatches=4,
)  # fmt: skip
REINFORCE_PP_BASELINE = replace(
    REINFORCE_PP, name="reinforce_pp_baseline",
    credit="sequence", baseline="group_mean", kl="loss", kl_estimator="k2", group_size=8,
)  # fmt: skip
GRPO = Algorithm(
    name="grpo", paper="arXiv:2402.03300",
    baseline="group_mean", scale="group_std", token_weight="sequence_mean",
    kl="loss", kl_estimator="k3", kl_coef=0.04, group_size=8,
)  # fmt: skip
GRPO_PROCESS = replace(GRPO, name="grpo_process", credit="process")
DR_GRPO = replace(
    GRPO, name="dr_grpo", paper="arXiv:2503.20783",
    scale="none", token_weight="fixed_length", kl="none", kl_coef=0.0,
)  # fmt: skip
DAPO = replace(
    GRPO, name="dapo", paper="arXiv:2503.14476",
    clip_high=0.28, token_weight="token_mean", kl="none", kl_coef=0.0, minibatches=4, dynamic_sampling=True,
)  # fmt: skip
GSPO = replace(
    GRPO, name="gspo", paper="arXiv:2507.18071",
    ratio="sequence", clip_low=3e-4, clip_high=4e-4, kl="none", kl_coef=0.0, minibatches=4,
)  # fmt: skip
CISPO = replace(
    DAPO, name="cispo", paper="arXiv:2506.13585",
    surrogate="detached_clamp", clip_low=1.0, clip_high=4.0, dynamic_sampling=False,
)  # fmt: skip

ALGORITHMS = {
    a.name: a
    for a in (
        REINFORCE, RLOO, REMAX, PPO, PPO_CLIP, REINFORCE_PP, REINFORCE_PP_BASELINE, GRPO, GRPO_PROCESS, DR_GRPO, DAPO, GSPO,
        CISPO,
    )
}  # fmt: skip
"""Every named algorithm, in the order in which they build on each other."""

PARTS = tuple(f.name for f in fields(Algorithm) if f.name not in {"name", "paper"})


def customised(base: Algorithm, **parts: object) -> Algorithm:
    """`base` with some parts replaced. Raises ConfigError for a choice that contradicts itself or that
    would have no effect."""
    from ventaja.training.validation import explain, setting_hint

    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"algorithm.{name}: no such part.{setting_hint(name, PARTS)}")
    changed = {name: value for name, value in parts.items() if getattr(base, name) != value}
    if parts.get("kl_coef") == 0 and "kl" not in parts:
        changed["kl"] = "none"
    for one, other, off in (("minibatch_size", "minibatches", 1), ("minibatches", "minibatch_size", None)):
        if parts.get(one) is not None and other not in parts:
            changed[other] = off  # they say the same in two ways
    if changed.get("kl") == "none":
        changed |= {name: off for name, off in (("kl_coef", 0.0), ("kl_target", None)) if name not in parts}
    try:
        result = replace(base, **changed)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(explain(error, prefix="algorithm")) from error
    for name in parts:
        if reason := without_effect(result, name):
            raise ConfigError(f"algorithm.{name} would have no effect: {reason}")
    return result


def without_effect(algorithm: Algorithm, part: str) -> str | None:
    """Why setting `part` would change nothing in this algorithm, or None."""
    if part in CLIPS:
        surrogate = algorithm.part("surrogate")
        if part not in surrogate.settings:
            return f"surrogate {algorithm.surrogate} does not {f'ask for {part}' if surrogate.settings else 'clip'}"
        if algorithm.is_on_policy and surrogate.clip:
            return "with one update per round the ratio is 1. Raise epochs or minibatches, or leave it out"
    if part == "max_approx_kl" and algorithm.is_on_policy:
        return "with one update per round there is none to leave out. Raise epochs or minibatches"
    if part == "discount" and algorithm.credit in ("sequence", "process_min"):
        return (
            f"with credit {algorithm.credit} rewards are not discounted. Set credit to to_go, gae or process"
        )
    if part == "discount_per" and algorithm.discount == 1 and algorithm.credit != "gae":
        return "discount is 1"
    if part in {"lambda_", "adaptive_lambda"} and algorithm.credit != "gae":
        return f"it is GAE's, but credit is {algorithm.credit}"
    if part == "critic_lambda" and not algorithm.has_critic:
        return f"there is no critic, for baseline is {algorithm.baseline}"
    if part == "ramp_start" and not algorithm.ramp_tokens:
        return "ramp_tokens is 0"
    if part == "shuffle" and not algorithm.has_minibatches:
        return "a pass has one minibatch. Raise minibatches, or set minibatch_size"
    if part == "shuffle" and algorithm.group_size == 1:
        return "with group_size 1 a group is one answer"
    if part == "baseline_value" and algorithm.baseline != "constant":
        return f"it is the value of baseline constant, but baseline is {algorithm.baseline}"
    if part in {"kl_estimator", "kl_target"} and algorithm.kl == "none":
        return "kl is none"
    if part == "max_sampling_factor" and not algorithm.dynamic_sampling:
        return "dynamic_sampling is off"
    return None


def all_found(algorithm: Algorithm) -> Algorithm:
    """The algorithm itself. Raises ConfigError if it names a function that only another program has."""
    for kind in KINDS:
        own = getattr(algorithm, kind)
        if isinstance(own, Own) and own.function is None:
            name = own.removesuffix(GIVEN_IN_PYTHON).strip()
            raise ConfigError(
                f"algorithm.{kind}: {own}: the run was begun by a program with this function, which cannot be found from "
                "here. Go on from that program, with run={'resume': True}. Where the function stands in a file, a new "
                f"run may name it: algorithm.{kind}: file.py:{name}"
            )
    return algorithm
