"""What other libraries call our settings, so that an error can say where a familiar name has gone.

TRL's names are those of `GRPOConfig`, `SFTConfig`, `ModelConfig` and transformers' `TrainingArguments`; verl's those
of its `ppo_trainer.yaml`. docs/coming-from-trl.md has them as a table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A name of another library's, and the settings that do its work: the first that a command has is meant."""

    library: str
    name: str
    settings: tuple[str, ...]
    note: str = ""
    """Where the meaning differs: what somebody who only changes the name would get wrong."""


def _trl(name: str, *settings: str, note: str = "") -> Peer:
    return Peer("TRL", name, settings, note)


def _verl(name: str, *settings: str, note: str = "") -> Peer:
    return Peer("verl", name, settings, note)


_ACTOR, _ROLLOUT, _MODEL = (f"actor_rollout_ref.{group}" for group in ("actor", "rollout", "model"))

PEERS: tuple[Peer, ...] = (
    _trl("model_name_or_path", "model.name"),
    _trl("use_peft", "model.lora"),
    _trl("lora_r", "model.lora.rank"),
    _trl("lora_alpha", "model.lora.alpha"),
    _trl("lora_target_modules", "model.lora.target_modules"),
    _trl("chat_template_path", "model.chat_template"),
    _trl("bf16", "model.precision"),
    _trl("fp16", "model.precision", note="bfloat16 or float32"),
    _trl("dataset_name", "data.source"),
    _trl("train_dataset", "data.source"),
    _trl("eval_dataset", "eval.source"),
    _trl("max_prompt_length", "data.max_prompt_tokens", note="a longer prompt is left out, not cut"),
    _trl("max_length", "data.max_tokens", note="what happens to longer ones is data.too_long"),
    _trl("truncation_mode", "data.too_long"),
    _trl("reward_funcs", "reward.functions"),
    _trl("reward_weights", "reward.functions", note="each function has its weight"),
    _trl("mask_truncated_completions", "reward.truncated", note="its value is mask"),
    _trl("beta", "algorithm.kl_coef", note="it goes with algorithm.kl"),
    _trl("num_generations", "algorithm.group_size"),
    _trl("num_iterations", "algorithm.epochs"),
    _trl(
        "steps_per_generation",
        "algorithm.minibatches",
        note="steps_per_generation / gradient_accumulation_steps",
    ),
    _trl("epsilon", "algorithm.clip_low", note="clip_high is set on its own"),
    _trl("epsilon_high", "algorithm.clip_high"),
    _trl("loss_type", "algorithm.token_weight", note="or another algorithm.name"),
    _trl("importance_sampling_level", "algorithm.ratio"),
    _trl("scale_rewards", "algorithm.scale"),
    _trl("max_completion_length", "sampling.max_tokens"),
    _trl("lr_scheduler_type", "optimiser.schedule"),
    _trl("warmup_steps", "optimiser.warmup_updates"),
    _trl("warmup_ratio", "optimiser.warmup_updates", note="a number of steps, not a share"),
    _trl("adam_beta1", "optimiser.betas", note="both in one list"),
    _trl("adam_beta2", "optimiser.betas", note="both in one list"),
    _trl("eval_steps", "eval.every"),
    _trl("load_best_model_at_end", "eval.every", note="the best checkpoint is kept where eval.every is set"),
    _trl("output_dir", "run.folder"),
    _trl(
        "max_steps", "run.rounds", "run.updates", note="a round is one sampling with all its optimiser steps"
    ),
    _trl(
        "num_train_epochs", "run.epochs", "run.rounds", note="rl counts rounds, not passes over the prompts"
    ),
    _trl(
        "per_device_train_batch_size",
        "run.completions_per_round",
        "run.batch_size",
        note="the whole batch, over all devices and accumulation steps",
    ),
    _trl(
        "gradient_accumulation_steps",
        "run.completions_per_round",
        "run.batch_size",
        note="the whole batch; optimiser.max_tokens alone decides what is in memory at once",
    ),
    _trl("generation_batch_size", "run.completions_per_round"),
    _trl("save_steps", "run.checkpoint_every"),
    _trl("save_total_limit", "run.keep_checkpoints"),
    _trl("resume_from_checkpoint", "run.resume", note="true or false; the checkpoint is run.folder's last"),
    _trl("report_to", "run.trackers"),
    _verl(f"{_MODEL}.path", "model.name"),
    _verl(f"{_MODEL}.lora_rank", "model.lora.rank"),
    _verl(f"{_MODEL}.lora_alpha", "model.lora.alpha"),
    _verl(f"{_MODEL}.target_modules", "model.lora.target_modules"),
    _verl(f"{_MODEL}.enable_gradient_checkpointing", "optimiser.gradient_checkpointing"),
    _verl("data.train_files", "data.source"),
    _verl("data.val_files", "eval.source"),
    _verl("data.max_prompt_length", "data.max_prompt_tokens"),
    _verl(
        "data.filter_overlong_prompts",
        "data.max_prompt_tokens",
        note="longer prompts are left out where it is set",
    ),
    _verl("data.max_response_length", "sampling.max_tokens"),
    _verl("data.train_batch_size", "run.completions_per_round", note="answers, not prompts"),
    _verl("custom_reward_function.path", "reward.functions", note="path/to/file.py:function"),
    _verl(f"{_ROLLOUT}.n", "algorithm.group_size"),
    _verl(f"{_ROLLOUT}.response_length", "sampling.max_tokens"),
    _verl(f"{_ROLLOUT}.temperature", "sampling.temperature"),
    _verl(
        f"{_ACTOR}.ppo_mini_batch_size",
        "algorithm.minibatches",
        note="how many mini-batches, not how large: train_batch_size / ppo_mini_batch_size",
    ),
    _verl(f"{_ACTOR}.ppo_micro_batch_size_per_gpu", "optimiser.max_tokens", note="tokens, not samples"),
    _verl(f"{_ACTOR}.ppo_max_token_len_per_gpu", "optimiser.max_tokens"),
    _verl(f"{_ACTOR}.ppo_epochs", "algorithm.epochs"),
    _verl(f"{_ACTOR}.clip_ratio", "algorithm.clip_low", note="clip_high is set on its own"),
    _verl(f"{_ACTOR}.clip_ratio_low", "algorithm.clip_low"),
    _verl(f"{_ACTOR}.clip_ratio_high", "algorithm.clip_high"),
    _verl(f"{_ACTOR}.loss_agg_mode", "algorithm.token_weight"),
    _verl(f"{_ACTOR}.entropy_coeff", "algorithm.entropy_coef"),
    _verl(f"{_ACTOR}.use_kl_loss", "algorithm.kl", note="its value is loss"),
    _verl(f"{_ACTOR}.kl_loss_coef", "algorithm.kl_coef"),
    _verl(f"{_ACTOR}.kl_loss_type", "algorithm.kl_estimator", note="low_var_kl is k3"),
    _verl(f"{_ACTOR}.grad_clip", "optimiser.max_grad_norm"),
    _verl(f"{_ACTOR}.optim.lr", "optimiser.learning_rate"),
    _verl(f"{_ACTOR}.optim.weight_decay", "optimiser.weight_decay"),
    _verl(f"{_ACTOR}.optim.lr_warmup_steps", "optimiser.warmup_updates"),
    _verl("algorithm.adv_estimator", "algorithm.name"),
    _verl("algorithm.use_kl_in_reward", "algorithm.kl", note="its value is reward"),
    _verl("algorithm.kl_penalty", "algorithm.kl_estimator"),
    _verl("algorithm.kl_ctrl.kl_coef", "algorithm.kl_coef"),
    _verl("algorithm.kl_ctrl.target_kl", "algorithm.kl_target"),
    _verl("algorithm.norm_adv_by_std_in_grpo", "algorithm.scale"),
    _verl("algorithm.filter_groups.enable", "algorithm.dynamic_sampling"),
    _verl("trainer.total_training_steps", "run.rounds", "run.updates"),
    _verl(
        "trainer.total_epochs",
        "run.epochs",
        "run.rounds",
        note="rl counts rounds, not passes over the prompts",
    ),
    _verl("trainer.save_freq", "run.checkpoint_every"),
    _verl("trainer.test_freq", "eval.every"),
    _verl("trainer.max_actor_ckpt_to_keep", "run.keep_checkpoints"),
    _verl("trainer.default_local_dir", "run.folder"),
    _verl("trainer.resume_mode", "run.resume", note="true or false"),
    _verl("trainer.logger", "run.trackers"),
)


def peer_hint(name: str, names: Iterable[str], value: Any = None) -> str:
    """` TRL's 'beta' is 'algorithm.kl_coef' here: …` (with the leading space), or nothing.

    `names` are the settings that a command has, or its flags. A name in one of their groups that comes close to
    another of that group is rather a slip of the pen. `value` is what the name was given: in a mapping, the names
    that are known are explained one by one.
    """
    if isinstance(value, Mapping):
        return "".join(peer_hint(f"{name}.{key}", names, inside) for key, inside in value.items())
    dashes = "--" if name.startswith("--") else ""
    key = name.removeprefix("--").replace("-", "_")
    known = {setting.removeprefix("--") for setting in names}
    group, _, last = key.rpartition(".")
    whole = [peer for peer in PEERS if peer.name == key]
    beside = [setting.rpartition(".")[2] for setting in known if setting.rpartition(".")[0] == group]
    if not whole and group and difflib.get_close_matches(last, beside, n=1, cutoff=0.8):
        return ""
    found = whole or [peer for peer in PEERS if len(last) > 1 and f".{peer.name}".endswith(f".{last}")]
    if len({peer.settings for peer in found}) != 1:  # nobody's, or it may mean several things
        return ""
    peer = found[0]
    setting = next((s for s in peer.settings if s in known), None)
    if setting is None:
        return f" {peer.library}'s {peer.name!r} is {peer.settings[0]!r} here, a setting of another command."
    return f" {peer.library}'s {peer.name!r} is {dashes + setting!r} here{f': {peer.note}' if peer.note else ''}."
