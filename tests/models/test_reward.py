"""A reward model's folder is an ordinary sequence classifier, which scores in transformers as it does here."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import EOS, PACKABLE, UNPACKABLE, make_policy, make_tokenizer, save_tiny_model
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ventaja.errors import ModelError
from ventaja.models import (
    Bundle,
    RewardFacts,
    Wanted,
    judged_tokens,
    load_policy,
    load_reward_model,
    pack_row,
)
from ventaja.models.load import is_reward_model
from ventaja.models.reward import begin_reward_model
from ventaja.records import Answer, Prompt

QUESTIONS = [("How?", ["so.", "by a long way round", ""]), ("Why is it?", ["no"])]


def with_heads(policy, heads=1, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    head = policy.add_heads(heads)
    width = head.folded().shape[1]
    head.take(
        torch.randn(heads, width, generator=generator), torch.randn(heads, generator=generator), size=1.7
    )
    return policy


def reward_policy(folder, kind, *, heads=1, lora=None):
    save_tiny_model(folder, kind)
    return with_heads(begin_reward_model(str(folder), precision="float32", lora=lora), heads)


def tokens(policy):
    """Token ids of each question's answers, ends included."""
    read = []
    for asked, answers in QUESTIONS:
        prompt = Prompt(id="p", content=asked)
        read.append([judged_tokens(policy, prompt, Answer(text=a), max_tokens=None) for a in answers])
    return read


@torch.no_grad()
def scores(policy):
    """[A, E] of all answers, from one packed row."""
    bundles = [Bundle(prompt_ids=r[0].prompt_ids, answers=[t.answer_ids for t in r]) for r in tokens(policy)]
    row = pack_row(bundles, keep_last=True)
    return policy.read(row, Wanted(logprob=False, value=True)).end_value_A


def in_transformers(folder, sequences):
    """The scores of token ids, padded into one batch, by nothing but transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    batch = words.pad({"input_ids": [list(ids) for ids in sequences]}, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[:, 0]


@pytest.mark.parametrize("kind", [*PACKABLE, *UNPACKABLE])
def test_transformers_scores_alike(kind, tmp_path):
    policy = reward_policy(tmp_path / "base", kind)
    ours = scores(policy)[:, 0]
    policy.save(tmp_path / "reward")
    sequences = [t.prompt_ids + t.answer_ids for read in tokens(policy) for t in read]
    assert len({len(ids) for ids in sequences}) > 2
    assert all(ids[-1] == EOS for ids in sequences)
    assert_close(in_transformers(tmp_path / "reward", sequences), ours, rtol=1e-4, atol=1e-4)
    assert_close(scores(load_reward_model(str(tmp_path / "reward")))[:, 0], ours, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert len(config["id2label"]) == 1


def test_the_pipeline_scores_alike(tmp_path):
    policy = reward_policy(tmp_path / "base", "llama")
    policy.save(tmp_path / "reward")
    judge = pipeline(
        "text-classification", model=str(tmp_path / "reward"), function_to_apply="none", device="cpu"
    )
    texts = [asked + answer + "<|end|>" for asked, answers in QUESTIONS for answer in answers]
    got = torch.tensor([each["score"] for each in judge(texts, batch_size=4)])
    assert_close(got, scores(policy)[:, 0], rtol=1e-4, atol=1e-4)


def test_where_the_pad_token_is_the_end_another_pads(tmp_path):
    # the score is read after the end, which a classifier that pads with it would never see
    save_tiny_model(tmp_path / "base", "llama")
    words = make_tokenizer()
    words.pad_token = words.eos_token
    words.save_pretrained(tmp_path / "base")
    policy = with_heads(begin_reward_model(str(tmp_path / "base"), precision="float32"))
    ours = scores(policy)[:, 0]
    policy.save(tmp_path / "reward")
    sequences = [t.prompt_ids + t.answer_ids for read in tokens(policy) for t in read]
    assert_close(in_transformers(tmp_path / "reward", sequences), ours, rtol=1e-4, atol=1e-4)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert loaded.pad_token_id == config["pad_token_id"] != EOS
    assert loaded.eos_token_id == EOS


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_adapters_are_merged_and_kept_beside(kind, tmp_path):
    pytest.importorskip("peft")
    from ventaja.settings import LoraSettings

    policy = reward_policy(tmp_path / "base", kind, lora=LoraSettings(rank=2))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in policy.parameters():
        assert "lora_" in name
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    before = {name: x.clone() for name, x in policy.module.state_dict().items()}
    ours = scores(policy)[:, 0]
    policy.save(tmp_path / "reward")
    assert all(torch.equal(x, before[name]) for name, x in policy.module.state_dict().items())
    sequences = [t.prompt_ids + t.answer_ids for read in tokens(policy) for t in read]
    assert_close(in_transformers(tmp_path / "reward", sequences), ours, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "reward" / "adapter" / "adapter_config.json").exists()


def test_an_ensembles_mean_is_one_layer(tmp_path):
    policy = reward_policy(tmp_path / "base", "llama", heads=3)
    policy.facts = RewardFacts(max_tokens=40, mean=0.5, std=2.0, answers=7)
    ours = scores(policy)
    assert ours.shape == (4, 3)
    policy.save(tmp_path / "reward")
    sequences = [t.prompt_ids + t.answer_ids for read in tokens(policy) for t in read]
    assert_close(in_transformers(tmp_path / "reward", sequences), ours.mean(dim=1), rtol=1e-4, atol=1e-4)
    loaded = load_reward_model(str(tmp_path / "reward"))
    assert_close(scores(loaded), ours)
    assert loaded.facts == policy.facts
    assert_close(loaded.heads.line_E, policy.heads.line_E)


def test_a_classifier_of_somebody_elses_is_a_reward_model(tmp_path):
    policy = reward_policy(tmp_path / "base", "llama")
    policy.save(tmp_path / "reward")
    for file in (tmp_path / "reward" / "reward").iterdir():
        file.unlink()
    loaded = load_reward_model(str(tmp_path / "reward"))
    assert_close(scores(loaded), scores(policy), rtol=1e-5, atol=1e-5)
    assert loaded.facts == RewardFacts()
    assert loaded.heads.line_E.tolist() == [0.0]


def test_what_is_no_reward_model_is_said(tmp_path):
    folder = save_tiny_model(tmp_path / "base", "llama")
    with pytest.raises(ModelError, match="is no reward model: its config.json names LlamaForCausalLM"):
        load_reward_model(str(folder))
    policy = with_heads(begin_reward_model(str(folder), precision="float32"))
    policy.save(tmp_path / "reward")
    assert is_reward_model(tmp_path / "reward")
    with pytest.raises(ModelError, match="is a reward model, which scores answers and gives none"):
        load_policy(str(tmp_path / "reward"))
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has 2 labels"):
        load_reward_model(str(tmp_path / "reward"))


def test_a_damaged_folder_is_said(tmp_path):
    policy = reward_policy(tmp_path / "base", "llama")
    policy.save(tmp_path / "reward")
    (tmp_path / "reward" / "reward" / "heads.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="reward/ is damaged"):
        load_reward_model(str(tmp_path / "reward"))


# ---------------------------------------------------------------------- what it reads


def judged(text="", ids=None, *, content="Q: ", limit=None):
    return judged_tokens(
        make_policy(), Prompt(id="p", content=content), Answer(text=text, token_ids=ids), max_tokens=limit
    )


def test_sampled_tokens_are_taken_as_they_are():
    words = make_tokenizer()
    ids = tuple(words("yes")["input_ids"])
    # cut off as it was sampled: no end is put behind it; an end that was sampled stays
    assert judged("yes", ids).answer_ids == ids
    assert judged("yes", (*ids, EOS)).answer_ids == (*ids, EOS)
    # a stop string is in the tokens and not in the text
    assert judged("ye", ids).answer_ids == ids


def test_text_is_encoded_with_its_end():
    words = make_tokenizer()
    ids = tuple(words("yes")["input_ids"])
    assert judged("yes").answer_ids == (*ids, EOS)
    assert judged("no", ids).answer_ids == (*words("no")["input_ids"], EOS)  # these tokens say something else
    assert judged("yes", (900, 901)).answer_ids == (*ids, EOS)
    assert judged("").answer_ids == (EOS,)
    chat = ({"role": "user", "content": "hi"},)
    asked = judged("yes", content=chat)
    assert asked.answer_ids == (*ids, EOS)
    assert words.decode(asked.prompt_ids) == "<|start|>user\nhi<|end|><|start|>assistant\n"


def test_what_is_too_long_loses_its_end():
    from ventaja.errors import DataError

    long = judged("yes indeed", limit=6)
    assert len(long.prompt_ids) == 3
    assert long.answer_ids == judged("yes").answer_ids[:3]
    assert long.is_cut
    assert not judged("ye", limit=6).is_cut
    with pytest.raises(DataError, match="the prompt has 3 tokens"):
        judged("yes", limit=3)
