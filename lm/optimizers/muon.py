"""Muon: momentum whose update is orthogonalised (Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/).

With the step size and weight decay of Liu et al. 2025 (arXiv:2502.16982). Hidden matrices only; embeddings, the output
head, norms and biases are updated by AdamW, as both sources do.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kernels.adamw import adamw_
from kernels.newton_schulz import newton_schulz
from lm.config import Config


def muon_(
    weights: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    steps: int,
    weight_decay: float,
) -> None:
    """Update weights and momenta in place; each weight moves by 0.2 lr root-mean-square, whatever its shape.

    An orthogonal (O, I) matrix has rms 1/sqrt(max(O, I)), so it is scaled by 0.2 sqrt(max(O, I)): the rms of a typical
    AdamW update (Liu et al., equation 4). Differs from both sources: fp32, not bf16, which many CPUs only emulate.
    """
    torch._foreach_lerp_(momenta, grads, 1 - momentum)
    updates = torch._foreach_lerp(grads, momenta, momentum) if nesterov else momenta
    updates = newton_schulz(list(updates), steps)
    torch._foreach_mul_(weights, 1 - lr * weight_decay)
    torch._foreach_mul_(updates, [-lr * 0.2 * math.sqrt(max(weight.shape)) for weight in weights])
    torch._foreach_add_(weights, updates)


class MuonOptimizer(torch.optim.Optimizer):
    """Holds momentum of every matrix, and exp_avg, exp_avg_sq and step of every other weight that has had a gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights and group["orthogonal"]:
                self._step_matrices(weights, group)
            elif weights:
                self._step_others(weights, group)

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        muon_(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [self.state[weight]["momentum"] for weight in weights],
            lr=group["lr"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            steps=group["steps"],
            weight_decay=group["weight_decay"],
        )

    def _step_others(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                zeros = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
                self.state[weight].update(step=torch.tensor(0), **zeros)
        states = [self.state[weight] for weight in weights]
        adamw_(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [int(state["step"].add_(1)) for state in states],
            lr=group["lr"],
            beta1=group["adamw_beta1"],
            beta2=group["adamw_beta2"],
            eps=group["adamw_eps"],
            weight_decay=group["weight_decay"],
        )


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon updates it: a matrix that is neither an embedding nor the output head."""
    return weight.ndim == 2 and not any("embed" in part or part.endswith("head") for part in name.split("."))


class Muon(Config):
    name: Literal["muon"] = "muon"
    lr: float = Field(
        5e-3, gt=0, description="of hidden matrices; an update's rms is 0.2 of it. Jordan's 0.02 in this unit"
    )
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    steps: int = Field(5, gt=0, description="Newton-Schulz iterations")
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; never norms or biases")
    adamw_lr: float = Field(1e-2, gt=0, description="of embeddings, head, norms and biases")
    adamw_beta1: float = Field(0.9, ge=0, lt=1)
    adamw_beta2: float = Field(0.95, ge=0, lt=1)
    adamw_eps: float = Field(1e-8, gt=0)

    def build(self, named_parameters: list[tuple[str, nn.Parameter]]) -> MuonOptimizer:
        """The optimizer of these weights: groups of hidden matrices, of other matrices, and of the rest without decay."""
        hidden = [weight for name, weight in named_parameters if is_hidden_matrix(name, weight)]
        tables = [
            weight for name, weight in named_parameters if weight.ndim >= 2 and not is_hidden_matrix(name, weight)
        ]
        plain = [weight for _, weight in named_parameters if weight.ndim < 2]
        by_adamw = {"orthogonal": False, "base_lr": self.adamw_lr, "lr": self.adamw_lr}
        groups = [
            {"params": hidden, "orthogonal": True, "base_lr": self.lr},
            {"params": tables, **by_adamw},
            {"params": plain, **by_adamw, "weight_decay": 0.0},
        ]
        return MuonOptimizer([group for group in groups if group["params"]], self.model_dump(exclude={"name"}))
