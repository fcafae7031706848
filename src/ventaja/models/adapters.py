"""Low-rank adapters (arXiv:2106.09685) through PEFT: new ones, those of a folder, and the base that they rest upon."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ventaja.errors import ConfigError, ModelError, did_you_mean
from ventaja.models.kept import KEPT_BASE, KEPT_REFERENCE, keep
from ventaja.models.policy import Policy
from ventaja.settings import LoraSettings

BESIDE = "adapter"
"""In the folder of a model that was merged, the adapters that it was trained with: what its run goes on from."""


def add_adapters(module: Any, lora: LoraSettings, *, name: str) -> Any:
    """New adapters on a model, or those that it has if they are as `lora` says; else raises ConfigError."""
    if hasattr(module, "peft_config"):  # already an adapter checkpoint: go on training it
        if differing := _differing(module, lora):
            raise ConfigError(
                f"model.lora would have no effect: {name!r} is an adapter already, and training goes on with it, "
                f"but {differing}. Leave model.lora out, or start from the adapter's base model."
            )
        return module
    with _peft() as peft:
        try:
            return peft.get_peft_model(
                module,
                peft.LoraConfig(
                    r=lora.rank,
                    lora_alpha=lora.alpha,
                    target_modules=_target_modules(module, lora.target_modules, name=name),
                    task_type="CAUSAL_LM",
                ),
                autocast_adapter_dtype=False,  # adapters compute in the model's precision, as their reference does
            )
        except (ValueError, re.error) as error:  # such as a layer of a kind that takes no adapter
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"model.lora.target_modules: {name} takes no such adapters: {reason}"
            ) from error


def _target_modules(module: Any, wanted: str | tuple[str, ...], *, name: str) -> str | list[str]:
    """As peft takes them: names of modules or the ends of such, each of which the model has."""
    if isinstance(wanted, str) and not re.fullmatch(r"[\w.]+", wanted):
        return wanted  # all-linear, or a regular expression, which peft takes too
    modules = [path for path, _ in module.named_modules()]
    for target in _names(wanted):
        if not any(path == target or path.endswith(f".{target}") for path in modules):
            layers = sorted({path.rpartition(".")[2] for path in _linear_layers(module)})
            raise ConfigError(
                f"model.lora.target_modules: {target!r} is no layer of {name}.{did_you_mean(target, layers)} "
                f"Its linear layers are {', '.join(layers)}; all-linear means all of them."
            )
    return list(_names(wanted))


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
    return any(
        ".lora_" not in path and ".base_layer" not in path for path in _linear_layers(module.get_base_model())
    )


def _linear_layers(model: Any) -> list[str]:
    """Paths of the linear layers but the output head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head
    ]


def attach(module: Any, adapter: Path, *, base: str) -> Any:
    """The adapter of a folder on its base, in the base's dtype. Saved again, it names `base` as its own."""
    with _peft() as peft:
        module = peft.PeftModel.from_pretrained(
            module, adapter, is_trainable=True, autocast_adapter_dtype=False
        )
    _set_base(module, base)
    return module


def kept_base(adapter: Path) -> Path | None:
    """The base that a run keeps for its adapters, found from an adapter of it: the run may have moved."""
    if adapter.name == BESIDE:  # in a reward model's checkpoint
        adapter = adapter.parent
    run = adapter.parent if adapter.name == KEPT_REFERENCE else adapter.parent.parent
    is_of_run = adapter.name == KEPT_REFERENCE or adapter.parent.name == "checkpoints"
    return run / KEPT_BASE if is_of_run and (run / KEPT_BASE / "config.json").exists() else None


def keep_base(policy: Policy, run: Path) -> None:
    """See to it that the adapters of `run` do not rest upon another run's checkpoint, which that run may remove.

    Such a base is kept in `run` too (`keep`). Raises ModelError if it cannot be kept.
    """
    if not policy.has_adapters:
        return
    base = Path(policy.module.peft_config[policy.module.active_adapter].base_model_name_or_path)
    if kept := keep(base, run, KEPT_BASE, what="the adapters' base"):
        _set_base(policy.module, str(kept))


def _set_base(module: Any, base: str) -> None:
    for config in module.peft_config.values():
        config.base_model_name_or_path = base


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
