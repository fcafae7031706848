"""Adapters and what they rest upon: in which precision, where it is, and what is said when it is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import save_tiny_model, tiny_llama
from torch.testing import assert_close

from ventaja.errors import ConfigError, ModelError
from ventaja.models import Bundle, Policy, load_policy, pack_row
from ventaja.models.adapters import keep_base
from ventaja.settings import LoraSettings

pytest.importorskip("peft")

ROW = pack_row([Bundle(prompt_ids=[5, 9, 3], answers=[[77, 30], [4]])])
LORA = LoraSettings(rank=2, alpha=4.0)


def load(folder: Path | str, **more: object) -> Policy:
    return load_policy(str(folder), device="cpu", **{"precision": "float32", **more})  # type: ignore[arg-type]


def moved(policy: Policy) -> Policy:
    """With adapters that are not at nothing."""
    with torch.no_grad():
        for _, p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return policy


def base_of(adapter: Path) -> str:
    return str(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])


def make_run(folder: Path) -> Path:
    """A run's folder with the checkpoint 3, and that."""
    checkpoint = save_tiny_model(folder / "checkpoints" / "3")
    (checkpoint / "training").mkdir()
    (folder / "config.yaml").write_text("model: x")
    return checkpoint


def test_an_adapters_base_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama(tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    policy = moved(load("./llama", lora=LORA))
    policy.save(tmp_path / "adapter")
    assert base_of(tmp_path / "adapter") == str(tmp_path / "llama")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = load("../adapter")
    again.save(tmp_path / "again")
    assert base_of(tmp_path / "again") == str(tmp_path / "llama")
    with torch.no_grad():
        assert_close(again.score(ROW).logprob_M, policy.score(ROW).logprob_M, rtol=0, atol=0)


def test_an_adapter_whose_base_is_gone_says_so(tmp_path: Path) -> None:
    llama, adapter = tiny_llama(tmp_path / "llama"), tmp_path / "adapter"
    load(llama, lora=LORA).save(adapter)
    llama.rename(tmp_path / "lama")
    with pytest.raises(
        ModelError,
        match=rf"without the adapter's base, '{llama}'.*does not exist.*base_model_name_or_path in",
    ):
        load(adapter)
    weights = tmp_path / "lama" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "lama").rename(llama)
    with pytest.raises(ModelError, match=rf"the adapter's base, '{llama}'.*damaged or cut short"):
        load(adapter)


def test_adapters_compute_in_the_precision_of_their_base(tmp_path: Path) -> None:
    """As a run's policy does, whose parameters are all rounded to it: else its reference would be another model."""
    llama, adapter = tiny_llama(tmp_path / "llama"), tmp_path / "adapter"
    moved(load(llama, lora=LORA)).save(adapter)
    for policy in (load(llama, lora=LORA, precision="bfloat16"), load(adapter, precision="bfloat16")):
        assert {p.dtype for p in policy.module.parameters()} == {torch.bfloat16}
    rounded = load(adapter)
    for parameter in rounded.module.parameters():
        parameter.data = parameter.data.bfloat16()
    with torch.no_grad():
        expected = rounded.score(ROW).logprob_M
        assert_close(load(adapter, precision="bfloat16").score(ROW).logprob_M, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("foo",), r"'foo' is no layer of .*linear layers are down_proj, gate_proj"),
        (("q_proj", "w_proj"), r"'w_proj' is no layer of .*Did you mean '.*_proj'"),
        ("k_prj", r"'k_prj' is no layer of .*Did you mean 'k_proj'"),
        (("self_attn",), r"takes no such adapters: Target module LlamaAttention"),
        (".*foo.*", r"takes no such adapters: "),
        ("*foo", r"takes no such adapters: "),
    ],
)
def test_target_modules_that_are_no_layers_are_refused(
    targets: str | tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^model.lora.target_modules: .*{words}"):
        load(tiny_llama(tmp_path / "llama"), lora=LoraSettings(target_modules=targets))


@pytest.mark.parametrize("targets", ["q_proj", ("q_proj",), r".*\.q_proj"])
def test_one_layers_name_is_enough(targets: str | tuple[str, ...], tmp_path: Path) -> None:
    policy = load(tiny_llama(tmp_path / "llama"), lora=LoraSettings(target_modules=targets))
    assert len(policy.parameters()) == 4  # two layers, two matrices
    assert all("q_proj" in name for name, _ in policy.parameters())


@pytest.mark.parametrize("links", [True, False])
def test_a_base_in_another_run_is_kept(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, run = make_run(tmp_path / "first"), tmp_path / "second"
    policy = moved(load(tmp_path / "first", lora=LORA))
    run.mkdir()
    if not links:

        def refuse(self: Path, target: Path) -> None:
            raise OSError

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    keep_base(policy, run)
    keep_base(policy, run)  # a resumed run does so again
    adapter = run / "checkpoints" / "5"
    policy.save(adapter)
    assert base_of(adapter) == str(run / "adapter-base")
    assert sorted(p.name for p in run.iterdir()) == ["adapter-base", "checkpoints"]
    assert not (run / "adapter-base" / "training").exists()
    weights = run / "adapter-base" / "model.safetensors"
    assert weights.samefile(base / "model.safetensors") == links
    shutil.rmtree(tmp_path / "first")
    run.rename(tmp_path / "elsewhere")
    again = load(tmp_path / "elsewhere")
    with torch.no_grad():
        assert_close(again.score(ROW).logprob_M, policy.score(ROW).logprob_M, rtol=0, atol=0)


def test_a_run_that_builds_on_such_a_run_keeps_the_base_too(tmp_path: Path) -> None:
    make_run(tmp_path / "first")
    policy = load(tmp_path / "first", lora=LORA)
    (tmp_path / "second").mkdir()
    keep_base(policy, tmp_path / "second")
    policy.save(tmp_path / "second" / "checkpoints" / "5")
    (tmp_path / "second" / "config.yaml").write_text("model: x")
    going_on = load(tmp_path / "second")
    (tmp_path / "third").mkdir()
    keep_base(going_on, tmp_path / "third")
    going_on.save(tmp_path / "third" / "checkpoints" / "5")
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second")
    assert load(tmp_path / "third").has_adapters


def test_a_base_outside_of_runs_stays_where_it_is(tmp_path: Path) -> None:
    llama = tiny_llama(tmp_path / "llama")
    (tmp_path / "run").mkdir()
    policy = load(llama, lora=LORA)
    for some in (policy, load(llama)):
        keep_base(some, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    policy.save(tmp_path / "run" / "checkpoints" / "5")
    assert base_of(tmp_path / "run" / "checkpoints" / "5") == str(llama)
