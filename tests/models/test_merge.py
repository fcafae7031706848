"""A merged model says what its adapters said on their base, in plain transformers with no arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import make_model, make_tokenizer, tiny_llama
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from ventaja.cli import main
from ventaja.errors import ConfigError, ModelError
from ventaja.models import load_policy
from ventaja.models.merge import merge_adapter
from ventaja.settings import LoraSettings

pytest.importorskip("peft")

IDS = torch.tensor([[5, 9, 3, 77, 30]])


def make_adapter(base: Path, folder: Path) -> Tensor:
    """Adapters on `base`, and the logits of both together in float32."""
    generator = torch.Generator().manual_seed(1)
    policy = load_policy(str(base), device="cpu", precision="float32", lora=LoraSettings(rank=2, alpha=4.0))
    with torch.no_grad():
        for _, p in policy.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    policy.save(folder)
    policy.causal_lm.set_attn_implementation("eager")
    with torch.no_grad():
        return policy.module(input_ids=IDS).logits


def plain_logits(folder: Path) -> tuple[Tensor, torch.dtype]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits.float(), model.dtype


@pytest.mark.parametrize("own", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_merged_model_says_what_its_adapters_said(own: str, precision: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_model("llama").to(getattr(torch, own)).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    expected = make_adapter(base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()  # an empty folder may be there
    merged = merge_adapter(str(tmp_path / "adapter"), tmp_path / "out", precision=precision)  # type: ignore[arg-type]
    dtype = own if precision == "auto" else precision
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert merged.dtype == getattr(torch, dtype)
    logits, loaded = plain_logits(tmp_path / "out")
    assert loaded == merged.dtype
    if dtype == "float32":
        assert merged.rounding == 0
        assert_close(logits, expected, rtol=1e-5, atol=2e-5)
    else:  # eight bits of each number, over two layers
        assert 0 < merged.rounding < 0.1
        assert (logits - expected).abs().mean() < 0.02 * expected.std()
    start, _ = plain_logits(base)
    assert (start - expected).abs().mean() > 0.1 * expected.std()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == make_tokenizer().chat_template
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base", "out"]
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert load_policy(str(tmp_path / "out"), device="cpu").not_packable is None


def test_what_rounding_adds_by_hand(tmp_path: Path) -> None:
    # a change far below a bfloat16's spacing is rounded away entirely: what rounding adds is the change again
    base = tmp_path / "base"
    make_model("llama").to(torch.bfloat16).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    policy = load_policy(str(base), device="cpu", precision="float32", lora=LoraSettings(rank=1, alpha=1.0))
    with torch.no_grad():
        for _, p in policy.parameters():
            p.fill_(1e-3)  # their product is a millionth, at weights of some tenths
    policy.save(tmp_path / "adapter")
    assert merge_adapter(str(tmp_path / "adapter"), tmp_path / "out").rounding == pytest.approx(1, rel=1e-2)


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    make_adapter(tiny_llama(tmp_path / "base"), tmp_path / "adapter")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for there in (full, full / "mine.txt"):
        with pytest.raises(ConfigError, match=rf"{there}: there is something here already"):
            merge_adapter(str(tmp_path / "adapter"), there)
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
    with pytest.raises(ModelError, match=r"mine.txt/out: cannot be written: "):
        merge_adapter(str(tmp_path / "adapter"), full / "mine.txt" / "out")


def test_only_adapters_are_merged(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no adapter: .* needs no merging"):
        merge_adapter(str(tiny_llama(tmp_path / "base")), tmp_path / "out")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "deep" / "out"
    expected = make_adapter(tiny_llama(tmp_path / "base"), run / "checkpoints" / "3")
    assert main(["merge", str(run), str(out)]) == 0
    assert capsys.readouterr().out == f"The merged model is in {out}, in float32.\n"
    assert_close(plain_logits(out)[0], expected, rtol=1e-5, atol=2e-5)
    assert main(["merge", str(run), str(tmp_path / "half"), "--precision", "bfloat16"]) == 0
    assert "With --precision float32 nothing is lost." in capsys.readouterr().out
    assert main(["merge", str(run), str(out)]) == 2
    assert main(["merge", str(run)]) == 2
    assert "required: OUTPUT. See ventaja merge --help." in capsys.readouterr().err
