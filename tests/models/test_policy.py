"""The output head, and what becomes of architectures whose attention cannot be planned."""

from __future__ import annotations

import pytest
import torch
from tiny import PACKABLE, UNPACKABLE, VOCABULARY, make_model, make_policy, make_tokenizer, shared_policy
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from ventaja.errors import ModelError
from ventaja.models import Bundle, Policy, pack_row
from ventaja.models.attention import plain_attention, plan_attention
from ventaja.models.head import LogitHead

IDS = torch.tensor([[5, 9, 3, 77, 30, 12]])
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.3,
}


def seeded(make: type[PreTrainedModel], config: object) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(config).eval()


@torch.no_grad()
def assert_head_gives_the_models_logits(model: PreTrainedModel) -> LogitHead:
    head = LogitHead.of(model)
    logits = head.logits(model.get_decoder()(input_ids=IDS).last_hidden_state)
    assert_close(logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)
    return head


@pytest.mark.parametrize("kind", PACKABLE + UNPACKABLE)
def test_the_head_gives_the_models_own_logits(kind: str) -> None:
    head = assert_head_gives_the_models_logits(make_model(kind))
    assert head.softcap == (3.0 if kind == "gemma2" else None)


def test_the_head_knows_scaled_logits() -> None:
    granite = seeded(GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=8.0))
    assert assert_head_gives_the_models_logits(granite).scale == 1 / 8
    cohere = seeded(Cohere2ForCausalLM, Cohere2Config(**SIZES, logit_scale=0.25))
    assert assert_head_gives_the_models_logits(cohere).scale == 0.25


def test_a_head_that_scales_in_an_unknown_way_is_refused() -> None:
    class Peculiar(LlamaForCausalLM):
        def forward(self, *args: object, **kwargs: object):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.2
            return output

    with pytest.raises(ModelError, match="Peculiar computes its logits in a way that Ventaja does not know"):
        Policy(Peculiar(make_model("llama").config), make_tokenizer(), name="peculiar")


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = make_model("llama")
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="no linear output head"):
        LogitHead.of(model)


@pytest.mark.parametrize("kind", PACKABLE)
def test_packable_models_have_nothing_to_say(kind: str) -> None:
    assert shared_policy(kind).not_packable is None
    assert shared_policy(kind).fallback_note is None


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_other_models_take_the_plain_way_and_say_so(kind: str) -> None:
    policy = shared_policy(kind)
    assert "does not take attention functions from outside" in (policy.not_packable or "")
    note = policy.fallback_note or ""
    assert note.startswith(f"tiny-{kind} is trained and sampled the plain way")
    assert (policy.not_packable or "?") in note


def attention_sinks() -> PreTrainedModel:
    sizes = SIZES | {"intermediate_size": 16}
    return seeded(
        GptOssForCausalLM, GptOssConfig(**sizes, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    )


def silent_window() -> PreTrainedModel:
    config = Qwen2MoeConfig(
        **SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1, num_experts=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts_per_tok=1,
    )  # fmt: skip
    return seeded(Qwen2MoeForCausalLM, config)


@pytest.mark.parametrize("make", [attention_sinks, silent_window])
def test_what_only_the_forward_pass_shows_is_found_out_too(make: object) -> None:
    model = make()  # type: ignore[operator]
    policy = Policy(model, make_tokenizer(), name="odd")
    assert policy.not_packable is not None
    row = pack_row([Bundle(prompt_ids=[5, 9, 3, 77, 30, 12], answers=[[4, 8], [9]])])
    with torch.no_grad():
        logprob = policy.score(row).logprob_M
        log_p = model(input_ids=torch.tensor([[5, 9, 3, 77, 30, 12, 4]])).logits[0, -2:].log_softmax(-1)
    # the second answer follows the prompt as the first one does
    assert_close(logprob, torch.stack([log_p[0, 4], log_p[1, 8], log_p[0, 9]]), rtol=1e-4, atol=1e-4)


def test_a_model_that_fails_the_trial_takes_the_plain_way() -> None:
    class Fragile(LlamaForCausalLM):
        def get_decoder(self):
            raise KeyError("rotary")

    reason = plan_attention(Fragile(make_model("llama").config))
    assert reason == "Fragile fails with two tokens in a packed row: KeyError: 'rotary'"


@pytest.mark.parametrize(("kind", "chosen"), [("llama", "sdpa"), ("gemma3", "sdpa"), ("gemma2", "eager")])
def test_the_plain_way_is_the_one_of_transformers(kind: str, chosen: str) -> None:
    model = make_policy(kind).causal_lm
    with plain_attention(model):
        assert model.config._attn_implementation == chosen
    assert model.config._attn_implementation == "ventaja"


def test_keys_and_values_may_differ_in_width() -> None:
    config = DeepseekV3Config(
        **SIZES | {"num_key_value_heads": 4}, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=8, v_head_dim=6, n_routed_experts=2, n_group=1, topk_group=1,
        num_experts_per_tok=1, moe_intermediate_size=16, first_k_dense_replace=2,
    )  # fmt: skip
    policy = Policy(seeded(DeepseekV3ForCausalLM, config), make_tokenizer(), name="deepseek")
    assert policy.not_packable is None
    row = pack_row([Bundle(prompt_ids=[5, 9, 3], answers=[[4, 8, 7], [9]])])
    with torch.no_grad():
        assert_close(policy.score(row).logprob_M, policy.score_padded(row).logprob_M, rtol=1e-5, atol=2e-5)


def test_a_module_may_be_wrapped_twice_and_its_own_call_says_what_to_do() -> None:
    policy = make_policy("llama")
    again = Policy(policy.module, policy.tokenizer, name="again")
    row = pack_row([Bundle(prompt_ids=[5, 9, 3], answers=[[4, 8]])])
    with torch.no_grad():
        assert_close(again.score(row).logprob_M, policy.score(row).logprob_M)
        with pytest.raises(ModelError, match=r"cannot be called on its own.*set_attn_implementation"):
            policy.module(input_ids=IDS)


def test_dropout_in_attention_is_refused() -> None:
    policy = make_policy("gpt2")
    policy.module.train()
    row = pack_row([Bundle(prompt_ids=[5, 9, 3], answers=[[4, 8]])])
    with pytest.raises(ModelError, match="Set it to 0"):
        policy.score(row)


def test_parameters_are_named_once_and_freezing_leaves_none() -> None:
    policy = make_policy("qwen3")  # its output head is its embedding
    found: list[Tensor] = [p for _, p in policy.parameters()]
    assert len({id(p) for p in found}) == len(found)
    assert sum(p.numel() for p in found) == sum(p.numel() for p in make_model("qwen3").parameters())
    policy.freeze()
    assert policy.parameters() == []
