"""Find, load and dress up a model: short names, folders, hub ids; precision."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ventaja import hub
from ventaja.cpu import multiplies_bfloat16
from ventaja.errors import ConfigError, ModelError, did_you_mean
from ventaja.models.adapters import add_adapters, attach, kept_base
from ventaja.models.catalog import CATALOG, packaged_model
from ventaja.models.chat import check_chat_template, read_chat_template
from ventaja.models.policy import Policy
from ventaja.models.quiet import without_progress_bars
from ventaja.settings import CpuWay, LoraSettings, Precision


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU. Raises ConfigError for one that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"model.device: there is no device {device!r}. It is auto, cpu, cuda, or cuda:1 for the second GPU."
        ) from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"model.device is {device!r}, but torch finds {torch.cuda.device_count() or 'no'} GPU here. "
            "Set it to auto or cpu, or look at the driver and install torch with CUDA."
        )
    return place


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies matrices in it (GPUs; CPUs with AMX or AVX512-BF16)."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def resolve_model(name: str) -> str:
    """A catalogue name becomes its folder; a local folder must hold a model; anything else is a hub id.

    Folders are absolute: what is kept of them, as an adapter's base or a run's start, holds from everywhere.
    """
    if name in CATALOG:
        return str(packaged_model(name).resolve())
    path = Path(name).expanduser()
    if (path / "checkpoints").is_dir():
        path = _last_checkpoint(path)
    if path.exists():
        if not any((path / file).exists() for file in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"model folder {name!r} has no config.json, so it is not a Hugging Face checkpoint."
                + _nested_hint(path)
            )
        return str(path.resolve())
    is_local = hub.is_meant_locally(name, holding=("*/config.yaml",))
    if is_local or name.startswith((".", "/", "~")) or name.count("/") > 1 or "/" not in name:
        hint = did_you_mean(name, _known_names(path))
        if "/" not in name:
            hint += " A model on the Hugging Face hub is called org/name, such as openai-community/gpt2."
        raise ModelError(
            f"model {name!r} does not exist: it is no local folder, and no short name "
            f"({', '.join(sorted(CATALOG))}).{hint}"
        )
    return name


def _last_checkpoint(run: Path) -> Path:
    finished = [p for p in (run / "checkpoints").iterdir() if p.name.isdecimal()]
    if not finished:
        raise ModelError(
            f"run folder {str(run)!r} has no checkpoint yet. Wait for one, or give another model."
        )
    return max(finished, key=lambda p: int(p.name))


def _known_names(path: Path) -> list[str]:
    beside = [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    return [*CATALOG, *beside]


def _nested_hint(path: Path) -> str:
    inside = sorted(p.parent for p in path.glob("**/config.json"))[-1:]
    return f" There is one inside: {inside[0]}" if inside else ""


def load_policy(
    name: str,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    lora: LoraSettings | None = None,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    cpu: CpuWay | None = None,
    kind: type[Policy] = Policy,
) -> Policy:
    """Load `name` (catalogue name, local folder or hub id) ready to score and sample.

    Weights are held in the compute precision; training keeps float32 masters beside them. A folder that holds
    a PEFT adapter is loaded on top of its base model. `cpu`: fast or plain (model.cpu); None leaves it to VENTAJA_CPU.
    `kind` is what is made of it.
    Raises ModelError or ConfigError with what to do next.
    """
    source = resolve_model(name)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    template = None if chat_template is None else read_chat_template(chat_template)
    module, tokenizer = load_module(name, source, dtype, trust_remote_code=trust_remote_code)
    if template is not None:
        tokenizer.chat_template = template
        check_chat_template(tokenizer)
    if lora is not None:
        module = add_adapters(module, lora, name=name)
    return kind(module.to(place), tokenizer, name=name, cpu=cpu)


_NO_PICKLE = (
    " Ventaja reads weights from .safetensors alone, and never a pickle such as a .bin file: save the model again "
    "with save_pretrained of a recent transformers or peft."
)


def _what_went_wrong(error: Exception) -> str:
    if isinstance(error, SafetensorError):
        return f"a weights file is damaged or cut short: {_first_line(error)}. Copy or download it again."
    if isinstance(error, hub.HubError):
        return f"{hub.NOT_HERE}, and {error}"
    return _first_line(error) + (_NO_PICKLE if "safetensors" in str(error) else "")


def load_module(name: str, source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """The module and tokenizer of a resolved name; an adapter's on top of its base, all in one dtype.

    Raises ModelError, which speaks of the model as `name`.
    """
    try:
        with without_progress_bars():
            return _load(source, dtype, trust_remote_code=trust_remote_code)
    except (SafetensorError, OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelError(f"model {name!r} could not be loaded: {_what_went_wrong(error)}") from error


def _load(source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    if (Path(source) / "adapter_config.json").exists():
        base, module = _load_adapter(source, dtype, trust_remote_code=trust_remote_code)
    else:
        base, module = source, _load_weights(source, dtype, trust_remote_code=trust_remote_code)
    named = source if (Path(source) / "tokenizer_config.json").exists() else base
    with _asking_once(named):
        tokenizer = AutoTokenizer.from_pretrained(named, trust_remote_code=trust_remote_code)
    return module, tokenizer


def is_reward_model(source: str | Path) -> bool:
    """True for a folder that holds a sequence classifier."""
    try:
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        return any(name.endswith("ForSequenceClassification") for name in config["architectures"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _load_weights(source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    if is_reward_model(source):
        raise ModelError(
            f"{source!r} is a reward model, which scores answers and gives none. Name it as a reward "
            "(reward.functions), and give the model that it was trained from, or another, here."
        )
    with _asking_once(source):
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )


def _asking_once(source: str) -> AbstractContextManager[None]:
    """Where `source` is on a hub: no half minute of retries if it does not answer."""
    return nullcontext() if Path(source).exists() else hub.quick(source)


def _load_adapter(source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[str, Any]:
    """The adapter's base, and both together. Raises ModelError that tells which of the two is amiss."""
    config_path = Path(source) / "adapter_config.json"
    if not (Path(source) / "adapter_model.safetensors").exists():  # peft would go on to the pickle
        raise ModelError(f"adapter {source!r} has no adapter_model.safetensors.{_NO_PICKLE}")
    written = json.loads(config_path.read_text()).get("base_model_name_or_path") or ""
    kept = kept_base(Path(source))
    try:
        base = resolve_model(str(kept or written))
        module = _load_weights(base, dtype, trust_remote_code=trust_remote_code)
    except (ModelError, SafetensorError, OSError, ValueError, ImportError, RuntimeError) as error:
        reason = str(error) if isinstance(error, ModelError) else _what_went_wrong(error)
        raise ModelError(
            f"adapter {source!r} cannot be used without the adapter's base, {written!r}, which could not be loaded: "
            f"{reason} An adapter is only a change to its base. "
            + (
                f"Bring back the run's copy of it, {kept}, or remove that folder. "
                if kept
                else "Bring the base back. "
            )
            + f"What counts without a copy is base_model_name_or_path in {config_path}: a folder or a hub id."
        ) from error
    return base, attach(module, Path(source), base=base)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
