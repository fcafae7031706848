"""TRL's GRPOTrainer on the workload, in an environment of its own: seconds per step, and one step's samples."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workload import ANSWERS, LEARNING_RATE, MAX_TOKENS, PROMPTS, emit, questions, spread_reward


class Clock(TrainerCallback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


class Watched(GRPOTrainer):
    """Keeps what the first loss was computed from."""

    seen: dict[str, torch.Tensor] | None = None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        if self.seen is None and model.training:
            names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
            self.seen = {name: inputs[name].detach().clone().contiguous() for name in names}
            # TRL has divided by the number of accumulated batches already.
            whole = loss.detach().float() * self.args.gradient_accumulation_steps
            self.seen["loss"] = whole.reshape(1).clone()
        return loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--tuned", action="store_true", help="weights in the compute precision, one batch of 64"
    )
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--samples", type=Path, help="where to keep the first loss's samples")
    arguments = parser.parse_args()
    is_low = arguments.precision == "bfloat16"
    dtype = torch.bfloat16 if arguments.tuned and is_low else torch.float32
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
    batch = PROMPTS * ANSWERS if arguments.tuned else 16
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Watched(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(arguments.model),
            reward_funcs=lambda completion_ids, **_: spread_reward(completion_ids),
            train_dataset=Dataset.from_list([{"prompt": q} for q in questions()]),
            callbacks=[clock],
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=is_low,
                beta=0.0,
                loss_type="grpo",
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=PROMPTS * ANSWERS // batch,
                num_generations=ANSWERS,
                max_completion_length=MAX_TOKENS,
                learning_rate=LEARNING_RATE,
                max_steps=arguments.steps,
                temperature=1.0,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        trainer.train()
        if arguments.samples and trainer.seen:
            save_file(trainer.seen, arguments.samples)
    emit(seconds=clock.seconds)


if __name__ == "__main__":
    main()
