"""AdamW on float32 master weights, beside a module that computes in a lower precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ventaja.models import Policy, ScoreHead, ValueHead
from ventaja.training.config import AdamWConfig
from ventaja.training.rounding import Rounding


class Optimiser:
    """Owns the master weights, their gradients and AdamW's moments.

    `policy` arrives in float32. Its trainable parameters become the masters; if `compute` is a lower
    precision, the module keeps rounded copies, gradients are added up in float32, and each step rounds anew. The
    rounded copies are the policy: they sample, they are scored, and they are what is saved.
    """

    def __init__(
        self,
        policy: Policy | ValueHead | ScoreHead,
        config: AdamWConfig,
        *,
        total_updates: int,
        compute: torch.dtype,
    ) -> None:
        self.config = config
        self.total_updates = total_updates
        self.updates = 0
        """Steps made."""
        self.unmade = 0
        """Planned steps that were not made, for there was nothing to learn from: the schedule passes over them."""
        self.is_whole = True
        """False while a step is being made: masters, moments and module are then of no one step."""
        self.parameters = dict(policy.parameters())
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            self.masters[name] = parameter.detach().float() if compute != parameter.dtype else parameter
        for parameter in policy.module.parameters():  # buffers, such as rotary tables, stay exact
            parameter.data = parameter.data.to(compute)
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                self.masters[name].requires_grad_(True)
                parameter.register_post_accumulate_grad_hook(_add_gradient_to(self.masters[name]))
        self.rounding = Rounding(self._rounded()) if self._rounded() else None
        decayed = [m for m in self.masters.values() if m.ndim >= 2]
        others = [m for m in self.masters.values() if m.ndim < 2]
        self.adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=config.betas,
            fused=True,
        )

    @property
    def learning_rate(self) -> float:
        """Of the next update: warm-up, then the schedule."""
        c = self.config
        if self.updates < c.warmup_updates:
            return c.learning_rate * (self.updates + 1) / c.warmup_updates
        if c.schedule == "constant":
            return c.learning_rate
        place = self.updates + self.unmade
        done = (place - c.warmup_updates) / max(1, self.total_updates - c.warmup_updates)
        factor = 1 - done if c.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return c.learning_rate * max(0.0, factor)

    def step(self) -> float:
        """Clip, update the masters, round them into the module, forget the gradients.

        Returns the gradient's norm before clipping. A norm that is not finite changes nothing, and is no
        update: the caller sees it in the result. Where no gradient came, not even a zero, there was nothing to learn
        from: momentum alone would still move the weights, so no step is made, and 0 is returned.
        """
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        if not gradients:
            return 0.0
        norm = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            limit = self.config.max_grad_norm
            if limit is not None and float(norm) > limit:
                torch._foreach_mul_(gradients, limit / (float(norm) + 1e-6))
            for master in self.masters.values():
                if master.grad is None:  # the others had one: here it is 0, and Adam's momentum goes on
                    master.grad = torch.zeros_like(master)
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate
            self.is_whole = False
            self.adamw.step()
            self._round_into_module()
            self.updates += 1
            self.is_whole = True
        self.forget_gradients()
        return float(norm)

    def has_finite_gradient(self) -> bool:
        """True unless a step would be refused."""
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        return not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite())

    def forget_gradients(self) -> None:
        self.adamw.zero_grad(set_to_none=True)
        for parameter in self.parameters.values():  # one that memory ran out on has not reached its master
            parameter.grad = None

    def _rounded(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each weight that the module holds rounded, and its master; empty where it computes in float32."""
        return {
            name: (self.parameters[name].data, master.data)
            for name, master in self.masters.items()
            if master is not self.parameters[name]
        }

    def _round_into_module(self) -> None:
        if pairs := self._rounded().values():
            torch._foreach_copy_([low for low, _ in pairs], [high for _, high in pairs])

    def swallowed(self) -> float | None:
        """See `Rounding.swallowed`; None where nothing is rounded."""
        return self.rounding.swallowed(self._rounded()) if self.rounding else None

    def weights(self) -> dict[str, Tensor]:
        """All weights that it trains, in float32."""
        return {name: master.detach().contiguous() for name, master in self.masters.items()}

    def master_weights(self) -> dict[str, Tensor]:
        """The float32 weights that the module holds rounded; empty where it computes in float32."""
        return {name: master for name, (_, master) in self._rounded().items()}

    def load_master_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take these in place of the module's own, and round them into it where it computes in a lower precision."""
        for name, master in self.masters.items():
            if name in weights:
                master.data.copy_(weights[name])
        self._round_into_module()

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, apart from the weights."""
        state = {"updates": torch.tensor(self.updates)}
        if self.rounding:
            state |= {f"start/{name}": start for name, start in self.rounding.start.items()}
        for name, master in self.masters.items():
            for key, value in self.adamw.state.get(master, {}).items():
                state[f"{key}/{name}"] = value
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.updates = int(state["updates"])
        for entry, value in state.items():
            key, _, name = entry.partition("/")
            if key == "start" and self.rounding:
                self.rounding.start[name] = value.to(self.masters[name].device, copy=True)
            elif name:
                master = self.masters[name]
                self.adamw.state[master][key] = value.to(master.device, copy=True)


def _add_gradient_to(master: Tensor):  # type: ignore[no-untyped-def]
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return hook
