"""An adapter and its base as one ordinary model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ventaja.errors import ConfigError, ModelError
from ventaja.models.load import load_module, resolve_model
from ventaja.models.quiet import without_progress_bars
from ventaja.settings import Precision


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model's folder."""

    folder: Path
    dtype: torch.dtype
    rounding: float
    """‖round(W + Δ) − (W + Δ)‖ / ‖Δ‖ over the adapted layers: what rounding to `dtype` adds to the adapters' change."""


def merge_adapter(
    name: str, output: Path, *, precision: Precision = "auto", trust_remote_code: bool = False
) -> Merged:
    """Add the adapters of `name` (an adapter's folder, or a run's) to their base and write it to the folder `output`.

    Added up in float32 and rounded once, to `precision`; auto is the base's own. Raises ConfigError if there is
    something in `output` already, ModelError if there is nothing to merge or it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: there is something here already. Give a folder that is new or empty.")
    source = resolve_model(name)
    if not (Path(source) / "adapter_config.json").exists():
        raise ModelError(
            f"{name!r} is no adapter: {source} has no adapter_config.json. A model of whole weights needs no merging."
        )
    module, tokenizer = load_module(name, source, torch.float32, trust_remote_code=trust_remote_code)
    own = _own_dtype(module, trust_remote_code=trust_remote_code)
    dtype = own if precision == "auto" else getattr(torch, precision)
    rounding = _rounding(module, dtype)
    try:
        model = module.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"{name!r} cannot be merged: {error}") from error
    work = output.with_name(f".{output.name}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        with without_progress_bars():
            model.to(dtype).save_pretrained(work)
        tokenizer.save_pretrained(work)
        work.rename(output)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise ModelError(f"{output}: cannot be written: {error.strerror or error}.") from error
    return Merged(folder=output, dtype=dtype, rounding=rounding)


def _own_dtype(module: Any, *, trust_remote_code: bool) -> torch.dtype:
    """The dtype that the base's config names: the base has been loaded in another."""
    base = module.peft_config[module.active_adapter].base_model_name_or_path
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    return config.dtype or torch.float32


def _rounding(module: Any, dtype: torch.dtype) -> float:
    lost, changed = 0.0, 0.0
    for layer in module.modules():
        if hasattr(layer, "get_delta_weight") and module.active_adapter in getattr(layer, "lora_A", {}):
            change = layer.get_delta_weight(module.active_adapter).detach()
            merged = layer.get_base_layer().weight.detach() + change
            lost += float((merged.to(dtype) - merged).square().sum())
            changed += float(change.square().sum())
    return (lost / changed) ** 0.5 if changed else 0.0
