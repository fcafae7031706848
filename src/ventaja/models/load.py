"""Find, load and dress up a model: short names, folders, hub ids; precision; adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ventaja import hub
from ventaja.errors import ConfigError, ModelError, did_you_mean
from ventaja.models.catalog import CATALOG, packaged_model
from ventaja.models.policy import Policy
from ventaja.models.quiet import without_progress_bars
from ventaja.settings import LoraSettings, Precision


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
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def resolve_model(name: str) -> str:
    """A catalogue name becomes its folder; a local folder must hold a model; anything else is a hub id."""
    if name in CATALOG:
        return str(packaged_model(name))
    path = Path(name).expanduser()
    if (path / "checkpoints").is_dir():
        path = _last_checkpoint(path)
    if path.exists():
        if not any((path / file).exists() for file in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"model folder {name!r} has no config.json, so it is not a Hugging Face checkpoint."
                + _nested_hint(path)
            )
        return str(path)
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
) -> Policy:
    """Load `name` (catalogue name, local folder or hub id) ready to score and sample.

    Weights are held in the compute precision; training keeps float32 masters beside them. A folder that holds
    a PEFT adapter is loaded on top of its base model. Raises ModelError with what to do next.
    """
    source = resolve_model(name)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    try:
        with without_progress_bars():
            module, tokenizer = _load(source, dtype, trust_remote_code=trust_remote_code)
    except SafetensorError as error:
        raise ModelError(
            f"model {name!r} could not be loaded: a weights file is damaged or cut short: {_first_line(error)}. "
            "Copy or download it again."
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        hint = _NO_PICKLE if "safetensors" in str(error) else ""
        raise ModelError(f"model {name!r} could not be loaded: {_first_line(error)}{hint}") from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if lora is not None:
        module = _add_adapters(module, lora, name=name)
    return Policy(module.to(place), tokenizer, name=name)


_NO_PICKLE = (
    " Ventaja reads weights from .safetensors alone, and never a pickle such as a .bin file: save the model again "
    "with save_pretrained of a recent transformers or peft."
)


def _load(source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = source
    adapter = Path(source) / "adapter_config.json"
    if adapter.exists():
        base = resolve_model(json.loads(adapter.read_text())["base_model_name_or_path"])
        if not (Path(source) / "adapter_model.safetensors").exists():  # peft would go on to the pickle
            raise ModelError(f"adapter {source!r} has no adapter_model.safetensors.{_NO_PICKLE}")
    with nullcontext() if Path(base).exists() else hub.quick(base):
        module: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            source if (Path(source) / "tokenizer_config.json").exists() else base,
            trust_remote_code=trust_remote_code,
        )
    if adapter.exists():
        with _peft() as peft:
            module = peft.PeftModel.from_pretrained(module, source, is_trainable=True)
    return module, tokenizer


def _add_adapters(module: Any, lora: LoraSettings, *, name: str) -> Any:
    if hasattr(module, "peft_config"):  # already an adapter checkpoint: go on training it
        if differing := _differing(module, lora):
            raise ConfigError(
                f"model.lora would have no effect: {name!r} is an adapter already, and training goes on with it, "
                f"but {differing}. Leave model.lora out, or start from the adapter's base model."
            )
        return module
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    with _peft() as peft:
        return peft.get_peft_model(
            module,
            peft.LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                target_modules=targets,
                task_type="CAUSAL_LM",
            ),
        )


def _differing(module: Any, lora: LoraSettings) -> str:
    """Which of the settings the adapter has otherwise, or an empty text."""
    config = module.peft_config[module.active_adapter]
    layers, wanted = config.target_modules, lora.target_modules
    if wanted == "all-linear":  # peft keeps the layers' names in place of this word
        has_targets = layers == wanted or not _linear_without_adapter(module)
    else:
        has_targets = wanted == layers if isinstance(layers, str) else {*_names(wanted)} == set(layers)
    pairs = {"rank": (lora.rank, config.r), "alpha": (lora.alpha, config.lora_alpha)}
    texts = [f"its {name} is {own:g}, not {set_:g}" for name, (set_, own) in pairs.items() if set_ != own]
    return " and ".join(texts + ([] if has_targets else ["its target_modules are others"]))


def _names(targets: str | tuple[str, ...]) -> tuple[str, ...]:
    return (targets,) if isinstance(targets, str) else targets


def _linear_without_adapter(module: Any) -> bool:
    """True if some linear layer but the output head has no adapter."""
    from transformers.pytorch_utils import Conv1D

    head = module.get_base_model().get_output_embeddings()
    return any(
        isinstance(layer, torch.nn.Linear | Conv1D)
        and layer is not head
        and ".lora_" not in name
        and ".base_layer" not in name
        for name, layer in module.named_modules()
    )


@contextmanager
def _peft() -> Iterator[Any]:
    """The package peft, without the warnings that are between it and newer transformers."""
    try:
        import peft
    except ImportError as error:
        raise ModelError("LoRA needs the package peft. Run: pip install 'ventaja[lora]'") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield peft


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
