"""A task that a tiny model learns in seconds: say one letter. And runs of it, in this process or another."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.torch
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ventaja.environments import Reward, SingleTurn
from ventaja.models import Policy
from ventaja.records import Completion, Example, Group, Judgement, Prompt, StopReason, Trajectory
from ventaja.rollouts import ScriptedEngine
from ventaja.training import RlConfig, SftConfig, parse, train_rl, train_sft
from ventaja.training.joints import make_environment
from ventaja.training.setup import RlRun

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["<pad>", "<eos>", *LETTERS, " ", ".", "?", ":"]
TIMES = ("seconds/", "tokens_per_second")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    from tokenizers import Tokenizer, decoders, models

    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(VOCABULARY)}, merges=[]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def llama(*, seed: int = 0, context: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            initializer_range=0.2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    )
    model.generation_config.eos_token_id = 1
    return model.eval()


def model_folder(folder: Path, *, seed: int = 0, context: int = 64) -> Path:
    llama(seed=seed, context=context).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def policy(*, seed: int = 0, cpu: Any = None) -> Policy:
    return Policy(llama(seed=seed), tokenizer(), name="tiny", cpu=cpu)


def prompts(count: int = 8) -> list[Prompt]:
    return [Prompt(id=f"p:{i}", content=f"say {LETTERS[i]}" + "?" * (i % 3 + 1)) for i in range(count)]


def share_of_a(completions: list[str], **_: Any) -> list[float]:
    """The share of the letter a among four places: easy to climb."""
    return [text.count("a") / 4 for text in completions]


def rl_values(folder: Path, model: Path, /, **groups: Any) -> dict[str, Any]:
    """A run file as plain values; keyword arguments are laid over its groups."""
    values: dict[str, Any] = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": {"source": "given.jsonl"},
        "sampling": {"max_tokens": 4},
        "algorithm": {"name": "grpo", "group_size": 4},
        "optimiser": {"learning_rate": 1e-2},
        "run": {"folder": str(folder), "rounds": 3, "completions_per_round": 16, "trackers": []},
    }
    for group, settings in groups.items():
        values[group] = {**values.get(group, {}), **settings}
    return values


def quiet() -> Console:
    return Console(file=StringIO())


def run_rl(
    folder: Path,
    model: Path,
    /,
    *,
    count: int = 8,
    judge: Any = share_of_a,
    steps: Any = None,
    gold: Any = None,
    console: Any = None,
    **groups: Any,
) -> Any:
    """Run it to the end on `count` prompts with one reward function, and perhaps one that is only measured."""
    config = parse(RlConfig, rl_values(folder, model, **groups))
    rewards = [Reward(judge, "share_of_a", steps=steps)]
    if gold is not None:
        rewards.append(Reward(gold, "gold", weight=0.0))
    environment = make_environment(config, prompts=prompts(count), rewards=rewards)
    return train_rl(config, environment=environment, console=console or quiet())


def begun(
    folder: Path,
    model: Path,
    /,
    *,
    judge: Any = share_of_a,
    count: int = 8,
    script: Any = None,
    **groups: Any,
) -> RlRun:
    """A run that is about to play its first round, with an engine that says `script(prompt, k)` if there is one."""
    environment = SingleTurn(prompts=prompts(count), rewards=[Reward(judge, "r")])
    return RlRun.of(
        parse(RlConfig, rl_values(folder, model, **groups)),
        engine=None if script is None else ScriptedEngine(tokenizer(), script),
        environment=environment,
        command="",
        console=quiet(),
    )


def examples(count: int = 6) -> list[Example]:
    return [
        Example(id=f"e:{i}", prompt=f"say {LETTERS[i]}:", completion="a" * (i % 3 + 1)) for i in range(count)
    ]


def run_sft(folder: Path, model: Path, /, **groups: Any) -> Any:
    values: dict[str, Any] = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": {"source": "given.jsonl"},
        "optimiser": {"learning_rate": 1e-2},
        "run": {"folder": str(folder), "updates": 6, "batch_size": 4, "trackers": []},
    }
    for group, settings in groups.items():
        values[group] = {**values.get(group, {}), **settings}
    return train_sft(parse(SftConfig, values), examples=examples(), console=quiet())


def assert_same_run(one: Path, two: Path) -> None:
    """Every file of two runs that says something about the model or the samples is the same, bit for bit."""
    assert metrics(one) == metrics(two)
    assert names(one / "rollouts") == names(two / "rollouts")
    for name in names(one / "rollouts"):
        left, right = (pyarrow.parquet.read_table(run / "rollouts" / name) for run in (one, two))
        assert left.equals(right), name
    last_one, last_two = (sorted((run / "checkpoints").iterdir())[-1] for run in (one, two))
    assert last_one.name == last_two.name
    files = sorted(p.relative_to(last_one) for p in last_one.rglob("*.safetensors"))
    assert files == sorted(p.relative_to(last_two) for p in last_two.rglob("*.safetensors"))
    assert len(files) >= 3  # weights, optimiser, tables
    for file in files:
        left, right = (safetensors.torch.load_file(last / file) for last in (last_one, last_two))
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), (file, name)
    states = [json.loads((last / "training" / "state.json").read_text()) for last in (last_one, last_two)]
    assert states[0] == states[1]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def completion(
    *token_ids: int, stop: StopReason = StopReason.EOS, text: str = "", logprob: float = -1.0
) -> Completion:
    return Completion(
        token_ids=token_ids, logprobs=(logprob,) * len(token_ids), text=text, stop=stop, weight_version=0
    )


def group(prompt_ids: tuple[int, ...], answers: list[tuple[int, ...]], rewards: list[float]) -> Group:
    """A judged group; a reward of None is not judged."""
    return Group(
        prompt=Prompt(id=f"p:{prompt_ids}", content="?"),
        prompt_ids=prompt_ids,
        trajectories=tuple(Trajectory.of(completion(*answer)) for answer in answers),
        judgements=tuple(
            Judgement() if reward is None else Judgement.outcome(float(reward), length=len(answer))
            for answer, reward in zip(answers, rewards, strict=True)
        ),
    )
