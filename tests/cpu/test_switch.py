"""One switch for all that is fast: a setting, an environment variable, and torch that lacks what is asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import QUESTION, make_model, make_policy, make_tokenizer, save_tiny_model
from torch.testing import assert_close

from ventaja import cpu
from ventaja.cpu import FAST, PLAIN, choose, operators
from ventaja.cpu.replacing import FastForward
from ventaja.errors import ConfigError
from ventaja.models import Bundle, Policy, load_policy, pack_row
from ventaja.records import Request
from ventaja.rollouts import LocalEngine, Sampling

TESTS = Path(__file__).parent.parent
BUNDLES = [
    Bundle(prompt_ids=[*range(3, 80), 5 + i], answers=[[9, 10, 11 + i], [12] * (i + 1)]) for i in range(3)
]


def in_a_process(code: str, **environment: str) -> str:
    place = {name: value for name, value in os.environ.items() if name != cpu.VARIABLE}
    place |= {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, "TESTS/training")
from tiny_task import model_folder, run_rl, run_sft
folder = Path(tempfile.mkdtemp())
model = model_folder(folder / "model")
groups = {"model": {"cpu": SETTING}} if SETTING else {}
run_sft(folder / "sft", model, **groups)
run_rl(folder / "rl", folder / "sft", run={"rounds": 1, "folder": str(folder / "rl")}, **groups)
print("numba" in sys.modules)
"""


def test_the_textbook_loads_no_numba() -> None:
    loaded = in_a_process(
        "import sys, ventaja.functional; print(*(m in sys.modules for m in ('torch', 'numba', 'ventaja.cpu')))"
    )
    assert loaded == "True False False\n"


@pytest.mark.parametrize(
    ("setting", "variable", "is_fast"),
    [(None, "plain", False), ("plain", "fast", False), ("fast", "plain", True)],
)
def test_plain_runs_train_and_sample_without_numba(setting: str | None, variable: str, is_fast: bool) -> None:
    code = TRAIN.replace("TESTS", str(TESTS)).replace("SETTING", repr(setting))
    assert in_a_process(code, VENTAJA_CPU=variable) == f"{is_fast}\n"


def test_the_setting_wins_over_the_variable_and_fast_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VENTAJA_CPU", raising=False)
    assert choose() is FAST
    assert choose("plain") is PLAIN
    for empty_or_fast in ("", "fast"):
        monkeypatch.setenv("VENTAJA_CPU", empty_or_fast)
        assert choose() is FAST
    monkeypatch.setenv("VENTAJA_CPU", "plain")
    assert choose() is PLAIN
    assert choose("fast") is FAST


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENTAJA_CPU", "slow")
    with pytest.raises(ConfigError, match="VENTAJA_CPU is 'slow', but it can only be fast or plain"):
        make_policy()


def test_a_plain_policy_asks_for_nothing_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something fast was asked for")

    plain = load_policy(str(save_tiny_model(tmp_path)), device="cpu", precision="float32", cpu="plain")
    assert plain.cpu is PLAIN
    assert not any(isinstance(vars(m).get("forward"), FastForward) for m in plain.causal_lm.modules())
    for name in ("logprobs", "attend_in", "decode_attention"):
        monkeypatch.setattr(cpu.Cpu, name, refuse)
    monkeypatch.setattr(operators, "flash_attention", refuse)
    monkeypatch.setattr(operators, "packed_product", refuse)
    row, requests = pack_row(BUNDLES), [Request(prompt=QUESTION, prompt_ids=(5, 6, 7), count=3, seed=(0,))]
    plain.score(row, entropy=True).logprob_M.sum().backward()
    LocalEngine(plain).sample(requests, Sampling(max_tokens=5))
    fast = make_policy("llama")
    with pytest.raises(AssertionError, match="something fast"):
        fast.score(row)
    with pytest.raises(AssertionError, match="something fast"):
        LocalEngine(fast).sample(requests, Sampling(max_tokens=5))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_both_ways_score_and_sample_the_same(kind: str) -> None:
    row = pack_row(BUNDLES, worthwhile=1)
    requests = [
        Request(prompt=QUESTION, prompt_ids=tuple(b.prompt_ids), count=4, seed=(i,))
        for i, b in enumerate(BUNDLES)
    ]
    results = []
    for way in ("fast", "plain"):
        policy = Policy(make_model(kind), make_tokenizer(), name=kind, cpu=way)
        scores = policy.score(row, temperature=0.8, entropy=True)
        assert scores.entropy_M is not None
        (scores.logprob_M.mean() + scores.entropy_M.mean()).backward()
        groups = LocalEngine(policy).sample(requests, Sampling(max_tokens=12))
        results.append(
            (
                [c.token_ids for group in groups for c in group],
                [scores.logprob_M, scores.entropy_M, *(p.grad for _, p in policy.parameters())],
            )
        )
    (fast_tokens, fast_numbers), (plain_tokens, plain_numbers) = results
    assert fast_tokens == plain_tokens
    for fast, plain in zip(fast_numbers, plain_numbers, strict=True):
        assert_close(fast, plain, rtol=1e-4, atol=2e-5)


# What torch may take away ------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_trials():
    operators.forget_trials()
    yield
    operators.forget_trials()


def gone(*_: object, **__: object) -> None:
    raise AttributeError("'_OpNamespace' 'aten' object has no attribute")


def wrong(*arguments: torch.Tensor, **how: object) -> tuple[torch.Tensor, torch.Tensor]:
    query = arguments[0]
    return torch.zeros_like(query), torch.zeros(query.shape[:-1])


@pytest.mark.usefixtures("_fresh_trials")
@pytest.mark.parametrize("instead", [gone, wrong])
@pytest.mark.parametrize("name", ["flash_attention", "flash_attention_gradient"])
def test_without_flash_attention_scores_are_kept_and_it_is_said(
    name: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ventaja.cpu import group_attention
    from ventaja.rollouts import decoding

    policy = make_policy("llama")
    assert policy.fallback_note is None
    row = pack_row(BUNDLES)
    requests = [Request(prompt=QUESTION, prompt_ids=(5, 6, 7), count=3, seed=(0,))]
    expected = policy.score(row).logprob_M.detach()
    answers = LocalEngine(policy).sample(requests, Sampling(max_tokens=9))

    operators.forget_trials()
    monkeypatch.setattr(operators, name, instead)
    monkeypatch.setattr(group_attention, "LARGE", 0)  # all scores are too large to be kept
    monkeypatch.setattr(decoding, "FEW_KEYS", 0)  # all answers too long for one kernel
    assert "no flash attention" in (policy.fallback_note or "")
    logprob_M = policy.score(row).logprob_M
    logprob_M.sum().backward()
    assert_close(logprob_M, expected, rtol=1e-5, atol=2e-5)
    again = LocalEngine(policy).sample(requests, Sampling(max_tokens=9))
    assert [c.token_ids for c in again[0]] == [c.token_ids for c in answers[0]]


@pytest.mark.usefixtures("_fresh_trials")
@pytest.mark.parametrize(
    ("name", "instead"), [("pack_weight", gone), ("packed_product", gone), ("packed_product", wrong)]
)
def test_without_packed_products_weights_stay_as_they_are_and_it_is_said(
    name: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, name, instead)
    policy = make_policy("llama")
    assert "no packed products" in (policy.fallback_note or "")
    with torch.inference_mode(), policy.cpu.pack(policy.causal_lm).active():
        assert not any("forward" in vars(m) for m in policy.causal_lm.modules() if type(m) is torch.nn.Linear)
    LocalEngine(policy).sample(
        [Request(prompt=QUESTION, prompt_ids=(5, 6), count=1, seed=(0,))], Sampling(max_tokens=3)
    )


@pytest.mark.usefixtures("_fresh_trials")
def test_a_plain_policy_has_nothing_to_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "flash_attention", gone)
    assert Policy(make_model("llama"), make_tokenizer(), name="plain", cpu="plain").fallback_note is None


def test_where_torch_does_not_tell_of_bfloat16_it_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not cpu.multiplies_bfloat16()
