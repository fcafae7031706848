"""A reward model: a causal LM's layers with a linear head, kept as an ordinary sequence classifier with one label."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ventaja.errors import ModelError
from ventaja.models.adapters import BESIDE
from ventaja.models.chat import Tokenizer
from ventaja.models.load import (
    is_reward_model,
    load_policy,
    resolve_device,
    resolve_model,
    resolve_precision,
)
from ventaja.models.policy import Policy
from ventaja.models.quiet import without_progress_bars
from ventaja.models.score import ScoreHead
from ventaja.settings import CpuWay, Precision

EXTRAS = "reward"
"""In a reward model's folder, what a sequence classifier has no place for."""
FACTS, HEADS = "facts.json", "heads.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RewardFacts:
    """What belongs to a reward model beside its weights."""

    max_tokens: int | None = None
    """Prompt and answer are cut after so many tokens, in training and ever after."""
    mean: float = 0.0
    """Of its rewards (score less line) on answers that it was not trained on."""
    std: float = 1.0
    answers: int = 0
    """How many answers these two were measured on; 0 if they were not."""


class RewardModel(Policy):
    """A network whose scores are read after an answer's last token. Its output head over the vocabulary is not used.

    Saved, it is what `AutoModelForSequenceClassification` loads, and scores there as here: one label, whose layer is the mean
    of the heads; a pad token that ends no answer, since transformers reads the score at the last token that is none.
    """

    value_head: ScoreHead | None
    facts: RewardFacts = RewardFacts()

    @property
    def heads(self) -> ScoreHead:
        """Its score heads. An error of the program, not of a user, if it has none yet."""
        assert self.value_head is not None, f"{self.name} has no score head"
        return self.value_head

    def add_heads(self, heads: int, *, raters: int = 0) -> ScoreHead:
        """Begin with heads that give every answer 0, and raters who are as good as not."""
        width = int(self.head.linear.in_features)
        head = self.value_head = ScoreHead(width, heads=heads, raters=raters, device=self.device)
        return head

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The trainable parameters but the output head, which no score depends on. (Tied to the embeddings it is theirs.)"""
        unused = None if self._is_tied else self.head.linear.weight
        return [(name, p) for name, p in super().parameters() if p is not unused]

    def as_policy(self) -> Policy:
        """The same network without what is a reward model's: it speaks by its embeddings, and has no heads."""
        policy = object.__new__(Policy)
        policy.__dict__.update(self.__dict__, value_head=None)
        return policy

    @property
    def _is_tied(self) -> bool:
        return self.head.linear.weight is self.causal_lm.get_input_embeddings().weight

    def save(self, folder: Path) -> None:
        """A sequence classifier's folder, merged if there are adapters, which then stand beside in `adapter/`."""
        weight_ED = self.heads.folded()
        tokenizer, pad = _with_pad(self.tokenizer, self.eos_ids, self.vocabulary)
        classifier = _classifier(self.causal_lm, weight_ED.mean(dim=0, keepdim=True), pad=pad)
        weights = self._merged() if self.has_adapters else self.causal_lm.get_decoder().state_dict()
        prefix = classifier.base_model_prefix
        state = {f"{prefix}.{name}": x for name, x in weights.items()}
        state["score.weight"] = classifier.score.weight.to(next(iter(weights.values())).dtype)
        with without_progress_bars():
            classifier.save_pretrained(folder, state_dict=state)
            if self.has_adapters:
                self.module.save_pretrained(folder / BESIDE)
                self.tokenizer.save_pretrained(folder / BESIDE)
        tokenizer.save_pretrained(folder)
        write_extras(folder, self)

    @torch.no_grad()
    def _merged(self) -> dict[str, Tensor]:
        """The decoder's weights with the adapters added, in float32 where they add anything; the module stays as it is."""
        decoder = self.causal_lm.get_decoder()
        state = {
            name.replace(".base_layer", ""): x.float()
            for name, x in decoder.state_dict().items()
            if ".lora_" not in name
        }
        active = self.module.active_adapter
        for path, layer in decoder.named_modules():
            if hasattr(layer, "get_delta_weight") and active in layer.lora_A:
                state[f"{path}.weight"] = state[f"{path}.weight"] + layer.get_delta_weight(active).float()
        return state


def write_extras(folder: Path, model: RewardModel) -> None:
    """All heads in float32, their line, and the facts, into `folder`."""
    place = folder / EXTRAS
    place.mkdir(parents=True, exist_ok=True)
    heads = model.heads
    tensors = {"weight": heads.folded(), "line": heads.line_E.detach(), "size": torch.tensor(heads.size)}
    save_file({name: x.contiguous().cpu() for name, x in tensors.items()}, place / HEADS)
    text = json.dumps({"format": FORMAT, **asdict(model.facts)}, indent=1)
    (place / FACTS).write_text(text + "\n", encoding="utf-8")


def begin_reward_model(
    name: str, *, device: str = "auto", precision: Precision = "auto", **more: Any
) -> RewardModel:
    """A causal LM's layers, as `load_policy` finds them, without any head yet; or a reward model with those that it has."""
    source = resolve_model(name)
    if is_reward_model(source) and more.get("lora") is None:
        kept = {key: more[key] for key in ("cpu", "trust_remote_code") if key in more}
        return load_reward_model(name, device=device, precision=precision, **kept)
    model = load_policy(name, device=device, precision=precision, kind=RewardModel, **more)
    assert isinstance(model, RewardModel)
    return model


def resume_reward_model(folder: Path, **more: Any) -> RewardModel:
    """A checkpoint's reward model in float32, to be trained on: with the adapters that it has, if it has any."""
    if not (folder / BESIDE).exists():
        return load_reward_model(str(folder), precision="float32", **more)
    model = load_policy(str(folder / BESIDE), precision="float32", kind=RewardModel, **more)
    assert isinstance(model, RewardModel)
    read_extras(folder, model)
    return model


def load_reward_model(
    name: str,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    trust_remote_code: bool = False,
    cpu: CpuWay | None = None,
) -> RewardModel:
    """A reward model from its folder, its run's folder or a hub: of ours, or any sequence classifier with one label.

    `precision` None takes that of its weights. Raises ModelError if it is none, or has layers that are no causal LM's.
    """
    source, place = resolve_model(name), resolve_device(device)
    dtype: Any = "auto" if precision is None else resolve_precision(precision, place)
    classifier, tokenizer = _loaded(name, source, dtype, trust_remote_code=trust_remote_code)
    model = RewardModel(_causal(classifier, name).to(place), tokenizer, name=name, cpu=cpu)
    read_extras(Path(source), model, score=classifier.score)
    return model


def load_critic(
    name: str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    cpu: CpuWay | None = None,
) -> tuple[Policy, ScoreHead]:
    """A reward model as the beginning of a critic, in float32: its layers as a causal LM, and the heads that read them."""
    source, place = resolve_model(name), resolve_device(device)
    classifier, tokenizer = _loaded(name, source, torch.float32, trust_remote_code=trust_remote_code)
    causal_lm = _causal(classifier, name).to(place)
    judge = RewardModel(causal_lm, tokenizer, name=name, cpu=cpu)
    read_extras(Path(source), judge, score=classifier.score)
    return judge.as_policy(), judge.heads


def _loaded(name: str, source: str, dtype: Any, *, trust_remote_code: bool) -> tuple[Any, Tokenizer]:
    """The sequence classifier and its tokenizer. Raises ModelError unless it has one label."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    try:
        with without_progress_bars():
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
            if not any("ForSequenceClassification" in each for each in config.architectures or ()):
                raise ModelError(
                    f"{name!r} is no reward model: its config.json names {listed_or_none(config.architectures)}. Train one "
                    "with `ventaja reward`, or give a sequence classifier with one label."
                )
            if config.num_labels != 1:
                raise ModelError(
                    f"{name!r} has {config.num_labels} labels, and a reward model has one, the reward. Give another."
                )
            classifier = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (SafetensorError, OSError, ValueError, ImportError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"reward model {name!r} could not be loaded: {reason}") from error
    return classifier, tokenizer


def read_extras(folder: Path, model: RewardModel, *, score: nn.Linear | None = None) -> None:
    """Give the model the heads and facts of `folder`; without any there, `score` as its only head.

    Raises ModelError if they cannot be read.
    """
    place = folder / EXTRAS
    if score is not None and not (place / HEADS).exists():
        heads = model.add_heads(1)
        bias = torch.zeros(1) if score.bias is None else -score.bias.detach().float().cpu()
        heads.take(score.weight.detach().float(), bias.to(model.device), size=1.0)
        return
    try:
        tensors = load_file(place / HEADS)
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
        if facts.pop("format") > FORMAT:
            raise ModelError(
                f"{folder}: this reward model was made by a newer version. Use that, or train it anew."
            )
        model.facts = RewardFacts(**facts)
        heads = model.add_heads(len(tensors["line"]))
        heads.take(
            tensors["weight"].to(model.device), tensors["line"].to(model.device), size=float(tensors["size"])
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the reward model's folder {EXTRAS}/ is damaged: {error}. Copy the whole folder again."
        ) from error


def listed_or_none(names: Any) -> str:
    return ", ".join(names or ()) or "no architecture"


def _classifier(causal_lm: Any, score_1D: Tensor, *, pad: int) -> Any:
    """A sequence classifier of the model's family, with the score layer and without any other weights.

    Raises ModelError if transformers has none.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(causal_lm.config)
    try:
        kind: Any = AutoModelForSequenceClassification._model_mapping[type(config)]
    except KeyError as error:
        raise ModelError(
            f"transformers has no sequence classifier for {type(causal_lm).__name__}, so a reward model of it could not be "
            "saved for others. Take a model of another family (Llama, Qwen, Gemma, GPT-2, …)."
        ) from error
    config.num_labels = 1
    config.pad_token_id = config.get_text_config().pad_token_id = pad
    config.use_cache = False
    with torch.device("meta"):
        classifier = kind(config)
    if not isinstance(getattr(classifier, "score", None), nn.Linear):
        raise ModelError(f"{kind.__name__} has no linear layer `score`, so it cannot hold a reward model.")
    classifier.score.weight = nn.Parameter(score_1D.clone())
    return classifier


def _causal(classifier: Any, name: str) -> Any:
    """The causal LM with the classifier's layers; its output head is tied to the embeddings, for it is not used."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(classifier.config)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    try:
        with torch.device("meta"):
            causal_lm = AutoModelForCausalLM.from_config(config, dtype=classifier.dtype)
    except ValueError as error:
        raise ModelError(
            f"{name!r} is a {type(classifier).__name__}, which has no causal LM's layers, and those are what Ventaja reads "
            "rewards from. Take a reward model that was made from a causal LM."
        ) from error
    prefix = classifier.base_model_prefix
    if not hasattr(causal_lm, prefix):
        raise ModelError(f"{name!r}: {type(classifier).__name__} is built otherwise than its causal LM.")
    setattr(causal_lm, prefix, getattr(classifier, prefix))
    causal_lm.get_output_embeddings().weight = causal_lm.get_input_embeddings().weight
    return causal_lm


def _with_pad(tokenizer: Tokenizer, eos_ids: frozenset[int], vocabulary: int) -> tuple[Tokenizer, int]:
    """A copy of the tokenizer that pads on the right with a token that ends no answer, and the token.

    A sequence classifier takes the last token that is not this one for the end: were it an end-of-sequence token too, as
    in many models, the score would be read before it.
    """
    copied = copy.deepcopy(tokenizer)
    copied.padding_side = "right"
    special = [
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        *sorted(tokenizer.all_special_ids, reverse=True),
    ]
    others = (i for i in special if i is not None and i not in eos_ids and i < vocabulary)
    pad = next(others, None)
    if pad is None:  # one special token that means everything, as in GPT-2: a byte that no text ends with
        rare = tokenizer.convert_tokens_to_ids("Ā")
        pad = rare if rare is not None and rare not in eos_ids and rare != tokenizer.unk_token_id else 0
    copied.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return copied, int(pad)
