"""Find, load and dress up a model: short names, folders, hub ids; precision; adapters."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ventaja.errors import ModelError
from ventaja.models.catalog import CATALOG, packaged_model
from ventaja.models.policy import Policy
from ventaja.models.quiet import without_progress_bars
from ventaja.settings import LoraSettings, Precision


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


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
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "/" not in name:
        near = difflib.get_close_matches(name, _known_names(path), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
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
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model {name!r} could not be loaded: {_first_line(error)}") from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if lora is not None:
        module = _add_adapters(module, lora)
    return Policy(module.to(place), tokenizer, name=name)


def _load(source: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = source
    adapter = Path(source) / "adapter_config.json"
    if adapter.exists():
        base = resolve_model(json.loads(adapter.read_text())["base_model_name_or_path"])
    module: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, trust_remote_code=trust_remote_code)
    if adapter.exists():
        with _peft() as peft:
            module = peft.PeftModel.from_pretrained(module, source, is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(
        source if (Path(source) / "tokenizer_config.json").exists() else base,
        trust_remote_code=trust_remote_code,
    )
    return module, tokenizer


def _add_adapters(module: Any, lora: LoraSettings) -> Any:
    if hasattr(module, "peft_config"):
        return module  # already an adapter checkpoint: go on training it
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
