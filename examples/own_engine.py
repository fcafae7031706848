"""An engine of your own: it samples with transformers' `generate`, slowly, and shows all that an engine has to do.

ventaja rl run.yaml --engine examples/own_engine.py:GenerateEngine
"""

import numpy as np
import torch

from ventaja.records import Completion, StopReason


class GenerateEngine:
    """What it answers depends on the weights, the request and its seed, so a resumed run equals an uninterrupted one."""

    def load(
        self, policy, *, version
    ):  # new weights, once a round; version counts the optimiser steps behind them
        self.policy, self.version = policy, version

    def release(self):  # give back what memory only sampling needs
        pass

    def sample(self, requests, sampling, **_):
        return [
            tuple(self.answer(request, k, sampling) for k in range(request.count)) for request in requests
        ]

    def answer(self, request, k, sampling):
        torch.manual_seed(int(np.random.default_rng([*request.seed, k]).integers(2**63)))
        prompt = torch.tensor([request.prompt_ids], device=self.policy.device)
        warm = sampling.temperature > 0  # at 0 the likeliest token is taken with certainty: its log-prob is 0
        with self.policy.as_transformers_has_it() as model:
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=warm, temperature=sampling.temperature or None,
                top_k=0, top_p=1.0, max_new_tokens=sampling.max_tokens, eos_token_id=sorted(self.policy.eos_ids),
                pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        tokens = out.sequences[0, len(request.prompt_ids) :].tolist()
        logprobs = (torch.cat(out.logits).float() / (sampling.temperature or 1.0)).log_softmax(-1) * warm
        return Completion(
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs[range(len(tokens)), tokens].tolist()),
            text=self.policy.tokenizer.decode(tokens, skip_special_tokens=True),
            stop=StopReason.EOS if tokens[-1] in self.policy.eos_ids else StopReason.LENGTH,
            weight_version=self.version,
        )
