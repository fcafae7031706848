"""What other libraries call our settings, as tables. docs/coming-from-trl.md shows them to readers.

TRL's names are those of `GRPOConfig`, `RLOOConfig`, `SFTConfig`, `RewardConfig`, `ModelConfig` and transformers'
`TrainingArguments` (TRL 1.16), with some that earlier versions had; verl's those of its `ppo_trainer.yaml` and what it
includes (0.9); OpenRLHF's the flags of its `train_ppo_ray` and `train_sft`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A name of another library's, and the settings that do its work: the first that a command has is meant."""

    library: str
    name: str
    """As that library writes it; `*` stands for anything."""
    settings: tuple[str, ...]
    """None: it has no counterpart here."""
    note: str = ""
    """Where the meaning differs: what somebody who only changes the name would get wrong. Without a counterpart: why
    there is none, as it reads after the word `because`."""


def _trl(name: str, *settings: str, note: str = "") -> Peer:
    return Peer("TRL", name, settings, note)


def _verl(name: str, *settings: str, note: str = "") -> Peer:
    return Peer("verl", name, settings, note)


def _openrlhf(name: str, *settings: str, note: str = "") -> Peer:
    return Peer("OpenRLHF", name, settings, note)


def _without(because: str, *, trl: str = "", verl: str = "", openrlhf: str = "") -> tuple[Peer, ...]:
    """Names without a counterpart, separated by spaces; those of one library's stand together."""
    names = (("TRL", trl), ("verl", verl), ("OpenRLHF", openrlhf))
    return tuple(Peer(library, name, (), because) for library, text in names for name in text.split())


_ACTOR, _ROLLOUT, _MODEL = (f"actor_rollout_ref.{group}" for group in ("actor", "rollout", "model"))
_WHOLE_BATCH = "the whole batch, over all devices and accumulation steps"
_ROUNDS = "rl counts rounds, not passes over the prompts"
_NOT_A_SHARE = "a number of steps, not a share"
_LIMIT_OF_ROWS = "tokens, not samples"

_TRL = (
    _trl("model_name_or_path", "model.name"),
    _trl("dtype", "model.precision", note="bfloat16 or float32"),
    _trl("torch_dtype", "model.precision", note="bfloat16 or float32"),
    _trl("bf16", "model.precision"),
    _trl("fp16", "model.precision", note="bfloat16 or float32"),
    _trl("use_cpu", "model.device", note="its value is cpu"),
    _trl("use_peft", "model.lora"),
    _trl("lora_r", "model.lora.rank"),
    _trl("lora_alpha", "model.lora.alpha"),
    _trl("lora_target_modules", "model.lora.target_modules"),
    _trl("chat_template_path", "model.chat_template"),
    _trl("chat_template_kwargs", "model.chat_template", note="a template with those values written into it"),
    _trl("dataset_name", "data.source"),
    _trl("dataset_config", "data.options", note="{name: …}, as datasets calls it"),
    _trl("dataset_train_split", "data.options", note="{split: …}"),
    _trl("dataset_test_split", "eval.options", note="{split: …}, beside eval.source"),
    _trl("train_dataset", "data.source"),
    _trl("eval_dataset", "eval.source"),
    _trl("max_prompt_length", "data.max_prompt_tokens", note="a longer prompt is left out, not cut"),
    _trl("max_length", "data.max_tokens", note="what happens to longer ones is data.too_long"),
    _trl("max_seq_length", "data.max_tokens", note="what happens to longer ones is data.too_long"),
    _trl("truncation_mode", "data.too_long"),
    _trl("reward_funcs", "reward.functions"),
    _trl("reward_model_path", "reward.functions", note="the folder of a reward model"),
    _trl("center_rewards_coefficient", "ranking.centring", note="of a group's mean score, not of a pair's sum"),
    _trl("reward_weights", "reward.functions", note="each function has its weight"),
    _trl("mask_truncated_completions", "reward.truncated", note="its value is mask"),
    _trl("missing_eos_penalty", "reward.truncation_penalty", note="it goes with reward.truncated: penalise"),
    _trl("max_completion_length", "sampling.max_tokens"),
    _trl("max_new_tokens", "sampling.max_tokens"),
    _trl("response_length", "sampling.max_tokens"),
    _trl("beta", "algorithm.kl_coef", note="it goes with algorithm.kl"),
    _trl("use_bias_correction_kl", "algorithm.kl_estimator", note="its value is k3_weighted"),
    _trl("num_generations", "algorithm.group_size"),
    _trl("num_iterations", "algorithm.epochs"),
    _trl("num_ppo_epochs", "algorithm.epochs"),
    _trl("num_mini_batches", "algorithm.minibatches"),
    _trl(
        "steps_per_generation",
        "algorithm.minibatches",
        note="steps_per_generation / gradient_accumulation_steps",
    ),
    _trl("epsilon", "algorithm.clip_low", note="clip_high is set on its own"),
    _trl("epsilon_high", "algorithm.clip_high"),
    _trl("cliprange", "algorithm.clip_low", note="clip_high is set on its own"),
    _trl("delta", "algorithm.dual_clip", note="it bounds the loss of tokens with a negative advantage"),
    _trl("loss_type", "algorithm.token_weight", note="or another algorithm.name"),
    _trl("importance_sampling_level", "algorithm.ratio"),
    _trl("scale_rewards", "algorithm.scale"),
    _trl("normalize_advantages", "algorithm.scale", note="its value is batch_std"),
    _trl("whiten_rewards", "algorithm.scale", note="batch_std whitens the advantages, not the rewards"),
    _trl("lr_scheduler_type", "optimiser.schedule"),
    _trl("warmup_steps", "optimiser.warmup_updates"),
    _trl("warmup_ratio", "optimiser.warmup_updates", note=_NOT_A_SHARE),
    _trl("adam_beta1", "optimiser.betas", note="both in one list"),
    _trl("adam_beta2", "optimiser.betas", note="both in one list"),
    _trl("activation_checkpointing", "optimiser.gradient_checkpointing"),
    _trl("eval_strategy", "eval.every", note="a number of rounds (of steps in sft)"),
    _trl("evaluation_strategy", "eval.every", note="a number of rounds (of steps in sft)"),
    _trl("eval_steps", "eval.every"),
    _trl("load_best_model_at_end", "eval.every", note="the best checkpoint is kept where eval.every is set"),
    _trl(
        "per_device_eval_batch_size",
        "engine.max_batch",
        "optimiser.max_tokens",
        note="what is in memory at once, in training too; no result depends on it",
    ),
    _trl("output_dir", "run.folder"),
    _trl("gamma", "algorithm.discount"),
    _trl("lam", "algorithm.lambda_"),
    _trl("vf_coef", "critic.loss_weight", note="where critic.through_trunk is set; a head alone has a loss of its own"),
    _trl("cliprange_value", "critic.clip", note="off unless set"),
    _trl("value_model_path", "critic.model", note="unset, values are read from the policy itself"),
    _trl("entropy_target", "algorithm.entropy_target", note="it adapts algorithm.entropy_coef"),
    _trl("run_name", "run.folder", note="a run is called as its folder is"),
    _trl("data_seed", "run.seed"),
    _trl(
        "max_steps", "run.rounds", "run.updates", note="a round is one sampling with all its optimiser steps"
    ),
    _trl("num_train_epochs", "run.epochs", "run.rounds", note=_ROUNDS),
    _trl("total_episodes", "run.rounds", note="total_episodes / run.completions_per_round"),
    _trl(
        "per_device_train_batch_size", "run.completions_per_round", "run.batch_size", note=_WHOLE_BATCH
    ),
    _trl(
        "gradient_accumulation_steps",
        "run.completions_per_round",
        "run.batch_size",
        note="the whole batch; optimiser.max_tokens alone decides what is in memory at once",
    ),
    _trl("generation_batch_size", "run.completions_per_round"),
    _trl("save_steps", "run.checkpoint_every"),
    _trl("save_strategy", "run.checkpoint_every", note="a number of optimiser steps"),
    _trl("save_total_limit", "run.keep_checkpoints"),
    _trl("resume_from_checkpoint", "run.resume", note="true or false; the checkpoint is run.folder's last"),
    _trl("report_to", "run.trackers"),
)  # fmt: skip

_VERL = (
    _verl(f"{_MODEL}.path", "model.name"),
    _verl(f"{_MODEL}.custom_chat_template", "model.chat_template"),
    _verl(f"{_MODEL}.lora_rank", "model.lora.rank"),
    _verl(f"{_MODEL}.lora_alpha", "model.lora.alpha"),
    _verl(f"{_MODEL}.target_modules", "model.lora.target_modules"),
    _verl(f"{_MODEL}.enable_gradient_checkpointing", "optimiser.gradient_checkpointing"),
    _verl("data.train_files", "data.source"),
    _verl("data.val_files", "eval.source"),
    _verl("data.train_max_samples", "data.size"),
    _verl("data.val_max_samples", "eval.size"),
    _verl("data.max_prompt_length", "data.max_prompt_tokens"),
    _verl(
        "data.filter_overlong_prompts",
        "data.max_prompt_tokens",
        note="longer prompts are left out where it is set",
    ),
    _verl("data.truncation", "data.too_long", "data.max_prompt_tokens", note="no prompt is ever cut"),
    _verl("data.max_response_length", "sampling.max_tokens"),
    _verl("data.train_batch_size", "run.completions_per_round", note="answers, not prompts"),
    _verl("data.val_batch_size", "engine.max_batch", "optimiser.max_tokens", note="in training too"),
    _verl("custom_reward_function.path", "reward.functions", note="path/to/file.py:function"),
    _verl("custom_reward_function.name", "reward.functions", note="path/to/file.py:function"),
    _verl("reward_model.*", "reward.functions", note="the folder of a reward model"),
    _verl(f"{_ROLLOUT}.n", "algorithm.group_size"),
    _verl(f"{_ROLLOUT}.prompt_length", "data.max_prompt_tokens"),
    _verl(f"{_ROLLOUT}.response_length", "sampling.max_tokens"),
    _verl(f"{_ROLLOUT}.temperature", "sampling.temperature"),
    _verl(f"{_ROLLOUT}.top_p", "sampling.top_p"),
    _verl(f"{_ROLLOUT}.top_k", "sampling.top_k", note="null, not -1, keeps all tokens"),
    _verl(f"{_ROLLOUT}.max_num_seqs", "engine.max_batch"),
    _verl(f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu", "optimiser.max_tokens", note=_LIMIT_OF_ROWS),
    _verl(f"{_ROLLOUT}.log_prob_max_token_len_per_gpu", "optimiser.max_tokens"),
    _verl(f"{_ACTOR}.ppo_mini_batch_size", "algorithm.minibatches",
          note="how many mini-batches; how large they are, in answers, is algorithm.minibatch_size"),
    _verl(f"{_ACTOR}.ppo_micro_batch_size", "optimiser.max_tokens", note=_LIMIT_OF_ROWS),
    _verl(f"{_ACTOR}.ppo_micro_batch_size_per_gpu", "optimiser.max_tokens", note=_LIMIT_OF_ROWS),
    _verl(f"{_ACTOR}.ppo_max_token_len_per_gpu", "optimiser.max_tokens"),
    _verl(f"{_ACTOR}.use_dynamic_bsz", "optimiser.max_tokens", note="rows always hold as many tokens as fit"),
    _verl(f"{_ACTOR}.ppo_epochs", "algorithm.epochs"),
    _verl(f"{_ACTOR}.clip_ratio", "algorithm.clip_low", note="clip_high is set on its own"),
    _verl(f"{_ACTOR}.clip_ratio_low", "algorithm.clip_low"),
    _verl(f"{_ACTOR}.clip_ratio_high", "algorithm.clip_high"),
    _verl(f"{_ACTOR}.clip_ratio_c", "algorithm.dual_clip", note="it is off unless set; verl's is 3.0"),
    _verl(f"{_ACTOR}.policy_loss.loss_mode", "algorithm.name", note="vanilla is grpo's or ppo's"),
    _verl(f"{_ACTOR}.loss_agg_mode", "algorithm.token_weight"),
    _verl(f"{_ACTOR}.entropy_coeff", "algorithm.entropy_coef"),
    _verl("algorithm.gamma", "algorithm.discount"),
    _verl("algorithm.lam", "algorithm.lambda_"),
    _verl("critic.cliprange_value", "critic.clip", note="off unless set"),
    _verl("critic.optim.lr", "critic.optimiser.learning_rate", note="of a critic with a model of its own; a head's is critic.head_learning_rate"),
    _verl("critic.optim.weight_decay", "critic.optimiser.weight_decay"),
    _verl("critic.model.path", "critic.model", note="unset, values are read from the policy itself"),
    _verl("critic.grad_clip", "critic.optimiser.max_grad_norm"),
    _verl("trainer.critic_warmup", "critic.warmup_rounds", note="rounds, not steps"),
    _verl(f"{_ACTOR}.use_kl_loss", "algorithm.kl", note="its value is loss"),
    _verl(f"{_ACTOR}.kl_loss_coef", "algorithm.kl_coef"),
    _verl(f"{_ACTOR}.kl_loss_type", "algorithm.kl_estimator", note="low_var_kl is k3"),
    _verl(f"{_ACTOR}.grad_clip", "optimiser.max_grad_norm"),
    _verl(f"{_ACTOR}.optim.clip_grad", "optimiser.max_grad_norm"),
    _verl(f"{_ACTOR}.optim.lr", "optimiser.learning_rate"),
    _verl(f"{_ACTOR}.optim.betas", "optimiser.betas"),
    _verl(f"{_ACTOR}.optim.weight_decay", "optimiser.weight_decay"),
    _verl(f"{_ACTOR}.optim.lr_warmup_steps", "optimiser.warmup_updates"),
    _verl(f"{_ACTOR}.optim.lr_warmup_steps_ratio", "optimiser.warmup_updates", note=_NOT_A_SHARE),
    _verl(f"{_ACTOR}.optim.lr_scheduler_type", "optimiser.schedule"),
    _verl(f"{_ACTOR}.optim.warmup_style", "optimiser.schedule"),
    _verl("algorithm.adv_estimator", "algorithm.name"),
    _verl("algorithm.use_kl_in_reward", "algorithm.kl", note="its value is reward"),
    _verl("algorithm.kl_penalty", "algorithm.kl_estimator"),
    _verl("algorithm.kl_ctrl.type", "algorithm.kl_target", note="the coefficient adapts where it is set"),
    _verl("algorithm.kl_ctrl.kl_coef", "algorithm.kl_coef"),
    _verl("algorithm.kl_ctrl.target_kl", "algorithm.kl_target"),
    _verl("algorithm.norm_adv_by_std_in_grpo", "algorithm.scale"),
    _verl("algorithm.filter_groups.enable", "algorithm.dynamic_sampling"),
    _verl("algorithm.filter_groups.max_num_gen_batches", "algorithm.max_sampling_factor"),
    _verl("trainer.total_training_steps", "run.rounds", "run.updates"),
    _verl("trainer.total_epochs", "run.epochs", "run.rounds", note=_ROUNDS),
    _verl("trainer.save_freq", "run.checkpoint_every"),
    _verl("trainer.test_freq", "eval.every"),
    _verl("trainer.max_actor_ckpt_to_keep", "run.keep_checkpoints"),
    _verl("trainer.max_ckpt_to_keep", "run.keep_checkpoints"),
    _verl("trainer.default_local_dir", "run.folder"),
    _verl("trainer.project_name", "run.folder", note="a run is called as its folder is"),
    _verl("trainer.experiment_name", "run.folder", note="a run is called as its folder is"),
    _verl("trainer.resume_mode", "run.resume", note="true or false"),
    _verl("trainer.resume_from_path", "run.resume", note="true or false; the checkpoint is run.folder's last"),
    _verl("trainer.logger", "run.trackers"),
    _verl("trainer.device", "model.device"),
)  # fmt: skip

_OPENRLHF = (
    _openrlhf("pretrain", "model.name"),
    _openrlhf("lora_rank", "model.lora.rank"),
    _openrlhf("target_modules", "model.lora.target_modules"),
    _openrlhf("prompt_data", "data.source"),
    _openrlhf("prompt_data_probs", "data.source", note="a list of sources, each with its weight"),
    _openrlhf("prompt_split", "data.options", note="{split: …}"),
    _openrlhf("eval_split", "eval.options", note="{split: …}, beside eval.source"),
    _openrlhf("max_samples", "data.size"),
    _openrlhf("prompt_max_len", "data.max_prompt_tokens"),
    _openrlhf("max_len", "data.max_tokens", "sampling.max_tokens"),
    _openrlhf("generate_max_len", "sampling.max_tokens"),
    _openrlhf("reward_pretrain", "reward.functions", note="the folder of a reward model"),
    _openrlhf("remote_rm_url", "reward.functions", note="path/to/file.py:function, which may ask a server"),
    _openrlhf("overlong_buffer_len", "reward.overlong_buffer"),
    _openrlhf("overlong_penalty_factor", "reward.overlong_penalty"),
    _openrlhf("advantage_estimator", "algorithm.name"),
    _openrlhf("policy_loss_type", "algorithm.name"),
    _openrlhf("n_samples_per_prompt", "algorithm.group_size"),
    _openrlhf("max_epochs", "algorithm.epochs", "run.epochs"),
    _openrlhf("train_batch_size", "algorithm.minibatches", "run.batch_size",
              note="how many mini-batches, not how large: rollout_batch_size × n_samples_per_prompt / train_batch_size"),
    _openrlhf("eps_clip", "algorithm.clip_low", note="clip_high is set on its own"),
    _openrlhf("eps_clip_low_high", "algorithm.clip_low", note="clip_high is set on its own"),
    _openrlhf("no_advantage_std_norm", "algorithm.scale", note="its value is none"),
    _openrlhf("init_kl_coef", "algorithm.kl_coef", note="it goes with algorithm.kl"),
    _openrlhf("use_kl_loss", "algorithm.kl", note="its value is loss"),
    _openrlhf("entropy_loss_coef", "algorithm.entropy_coef"),
    _openrlhf("gamma", "algorithm.discount"),
    _openrlhf("lambd", "algorithm.lambda_"),
    _openrlhf("value_clip", "critic.clip", note="off unless set"),
    _openrlhf("critic_pretrain", "critic.model", note="unset, values are read from the policy itself"),
    _openrlhf("critic_learning_rate", "critic.optimiser.learning_rate", note="of a critic with a model of its own; a head's is critic.head_learning_rate"),
    _openrlhf("freezing_actor_steps", "critic.warmup_rounds", note="rounds, not steps"),
    _openrlhf("dynamic_filtering", "algorithm.dynamic_sampling"),
    _openrlhf("actor_learning_rate", "optimiser.learning_rate"),
    _openrlhf("lr_scheduler", "optimiser.schedule"),
    _openrlhf("lr_warmup_ratio", "optimiser.warmup_updates", note=_NOT_A_SHARE),
    _openrlhf("adam_betas", "optimiser.betas"),
    _openrlhf("l2", "optimiser.weight_decay"),
    _openrlhf("max_norm", "optimiser.max_grad_norm"),
    _openrlhf("micro_train_batch_size", "optimiser.max_tokens", note=_LIMIT_OF_ROWS),
    _openrlhf("train_max_tokens_per_gpu", "optimiser.max_tokens"),
    _openrlhf("rollout_batch_size", "run.completions_per_round", note="answers, not prompts"),
    _openrlhf("micro_rollout_batch_size", "engine.max_batch"),
    _openrlhf("num_episodes", "run.rounds", note=_ROUNDS),
    _openrlhf("save_path", "run.folder"),
    _openrlhf("ckpt_path", "run.folder"),
    _openrlhf("load_checkpoint", "run.resume"),
    _openrlhf("max_ckpt_num", "run.keep_checkpoints"),
    _openrlhf("use_wandb", "run.trackers", note="its value is wandb"),
    _openrlhf("use_tensorboard", "run.trackers", note="its value is tensorboard"),
)  # fmt: skip

_WITHOUT = (
    *_without(
        "a run is one process on one device",
        trl="deepspeed fsdp fsdp_config ddp_* ds3_gather_for_generation accelerator_config local_rank",
        verl=f"{_ACTOR}.strategy {_ACTOR}.fsdp_config.* {_ACTOR}.megatron.* {_ACTOR}.ulysses_sequence_parallel_size "
        "actor_rollout_ref.ref.fsdp_config.* actor_rollout_ref.hybrid_engine trainer.nnodes "
        "trainer.n_gpus_per_node trainer.balance_batch ray_kwargs.* ray_init.*",
        openrlhf="zero_stage zpg *_num_nodes *_num_gpus_per_node colocate_* adam_offload ds_tensor_parallel_size "
        "deepspeed_enable_sleep overlap_comm ring_attn_size ring_head_stride async_train async_queue_size",
    ),
    *_without(
        "answers are sampled in this process, by the weights that are trained; an engine of your own is "
        "`engine: file.py:name`",
        trl="use_vllm vllm_* use_transformers_paged use_transformers_continuous_batching cache_implementation",
        verl=f"{_ROLLOUT}.name {_ROLLOUT}.mode {_ROLLOUT}.dtype {_ROLLOUT}.gpu_memory_utilization "
        f"{_ROLLOUT}.*_parallel_size {_ROLLOUT}.enforce_eager {_ROLLOUT}.free_cache_engine {_ROLLOUT}.load_format "
        f"{_ROLLOUT}.max_num_batched_tokens {_ROLLOUT}.max_model_len {_ROLLOUT}.enable_chunked_prefill "
        f"{_ROLLOUT}.layered_summon {_ROLLOUT}.engine_kwargs.* {_ROLLOUT}.calculate_log_probs "
        "algorithm.rollout_correction.*",
        openrlhf="vllm_* enable_vllm_is_correction enforce_eager enable_prefix_caching",
    ),
    *_without(
        "a critic is saved in every checkpoint, its rows are as long as the policy's, and its head has no name of its own",
        verl="critic.ppo_* critic.forward_* critic.use_dynamic_bsz critic.loss_agg_mode critic.rollout_n critic.strategy "
        "critic.shuffle critic.model.tokenizer_path trainer.max_critic_ckpt_to_keep",
        openrlhf="save_value_network value_head_prefix",
    ),
    *_without(
        "the reference stays the model that the run began with; to move it, begin a new run from the last one's folder "
        "with model.name",
        trl="sync_ref_model ref_model_mixup_alpha ref_model_sync_steps",
    ),
    *_without(
        "metrics.jsonl has every round (every step in sft), and a terminal shows it",
        trl="logging_steps logging_strategy logging_first_step log_level disable_tqdm",
        openrlhf="logging_steps",
    ),
    *_without(
        "every answer of every round is kept, in rollouts/",
        trl="log_completions log_unique_prompts num_completions_to_print",
        verl="trainer.log_val_generations trainer.rollout_data_dir trainer.validation_data_dir",
    ),
    *_without(
        "examples and answers are always packed into rows without padding, and never see each other",
        trl="packing packing_strategy eval_packing padding_free pad_to_multiple_of group_by_length",
        verl=f"{_MODEL}.use_remove_padding",
        openrlhf="packing_samples",
    ),
    *_without(
        "dropout is always off: a token's log-prob must not change between two looks at it",
        trl="lora_dropout disable_dropout neftune_noise_alpha",
        verl=f"{_MODEL}.lora.dropout",
        openrlhf="lora_dropout",
    ),
    *_without(
        "weights are held in bfloat16 or float32; for less memory train adapters (model.lora), or lower "
        "optimiser.max_tokens",
        trl="load_in_4bit load_in_8bit bnb_4bit_* use_bnb_nested_quant activation_offloading",
        verl=f"{_MODEL}.enable_activation_offload {_ROLLOUT}.quantization",
        openrlhf="load_in_4bit",
    ),
    *_without(
        "adapters are plain LoRA on linear layers, with a rank, an alpha and target_modules",
        trl="lora_task_type lora_modules_to_save lora_target_parameters use_rslora use_dora",
        verl=f"{_MODEL}.exclude_modules",
    ),
    *_without(
        "fused kernels and packed attention are taken wherever they apply (model.cpu turns those of a CPU off)",
        trl="use_liger_kernel torch_compile attn_implementation cast_lm_head_to_fp32",
        verl=f"{_MODEL}.use_liger {_MODEL}.use_fused_kernels {_ACTOR}.use_torch_compile",
        openrlhf="use_liger_kernel flash_attn attn_implementation",
    ),
    *_without(
        "a model is loaded from one place: download another revision, or with other options, and give its folder",
        trl="model_revision model_init_kwargs",
        verl=f"{_MODEL}.override_config.* {_MODEL}.tokenizer_path",
        openrlhf="disable_fast_tokenizer",
    ),
    *_without(
        "the optimiser is AdamW, with the settings of the group optimiser and no others",
        trl="optim optim_args optim_target_modules adam_epsilon lr_scheduler_kwargs",
        verl=f"{_ACTOR}.optim.optimizer {_ACTOR}.optim.min_lr_ratio {_ACTOR}.optim.num_cycles",
    ),
    *_without(
        "rows are always shuffled anew for each pass, as run.seed says",
        trl="shuffle_dataset train_sampling_strategy",
        verl=f"data.shuffle {_ACTOR}.shuffle",
    ),
    *_without(
        "data are read when a run begins, by this process",
        trl="dataset_num_proc dataloader_* dataset_streaming",
        verl="data.dataloader_num_workers data.filter_overlong_prompts_workers",
    ),
    *_without(
        "columns have the usual names (prompt, completion, messages, text), and every reward function gets all the others "
        "that it asks for",
        trl="remove_unused_columns dataset_text_field dataset_kwargs",
        verl="data.prompt_key data.reward_fn_key",
        openrlhf="input_key label_key input_template",
    ),
    *_without(
        "a chat is rendered by the model's chat template, plain text as it is",
        openrlhf="apply_chat_template",
    ),
    *_without(
        "only answers are learned: completions, or all assistant turns of messages",
        trl="completion_only_loss assistant_only_loss",
    ),
    *_without(
        "held-out problems are answered as the group sampling says, and greedily",
        trl="num_generations_eval",
        verl=f"{_ROLLOUT}.val_kwargs.*",
        openrlhf="eval_temperature eval_n_samples_per_prompt",
    ),
    *_without(
        "`ventaja eval` measures a model without training it",
        trl="eval_on_start",
        verl="trainer.val_before_train trainer.val_only",
    ),
    *_without(
        "the checkpoint with the lowest eval/loss is the best one",
        trl="metric_for_best_model greater_is_better",
    ),
    *_without(
        "training scores the model's whole distribution, and this would sample from another one",
        trl="repetition_penalty generation_kwargs",
    ),
    *_without(
        "no world of several turns or with tools is built in; `environment` takes one of your own",
        trl="max_tool_calling_iterations",
        verl=f"{_ROLLOUT}.multi_turn.* {_ROLLOUT}.agent.*",
        openrlhf="agent_func_path",
    ),
    *_without(
        "each prompt's rewards are summed as they are: clip or scale them in the reward function",
        trl="reward_clip_range multi_objective_aggregation",
        openrlhf="reward_clip_range normalize_reward dynamic_filtering_reward_range",
    ),
    *_without(
        "no algorithm here has this part (`ventaja algorithms` shows those that there are)",
        trl="sapo_* vespo_* top_entropy_quantile use_adaptive_entropy entropy_coef_* "
        "off_policy_mask_threshold router_aux_loss_coef label_smoothing_factor",
        verl=f"{_ACTOR}.tau_pos {_ACTOR}.tau_neg {_ACTOR}.policy_loss.*_cov_* {_ACTOR}.policy_loss.ppo_kl_coef "
        "algorithm.use_pf_ppo algorithm.pf_ppo.* algorithm.kl_ctrl.horizon algorithm.filter_groups.metric",
        openrlhf="ptx_coef enable_ema ema_beta kl_horizon aux_loss_coef",
    ),
    *_without(
        "a checkpoint is an ordinary Hugging Face folder: upload it with `hf upload`",
        trl="push_to_hub hub_*",
        verl="trainer.default_hdfs_dir",
    ),
)

PEERS: tuple[Peer, ...] = (*_TRL, *_VERL, *_OPENRLHF, *_WITHOUT)
