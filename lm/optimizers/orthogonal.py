"""What Muon and its variants share: the orthogonalised update, and which weights get it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from kernels.newton_schulz import batches, cost, matmul_dtype, newton_schulz
from kernels.newton_schulz.reference import Coefficients
from lm.distributed import from_owners, rank, shared_out, world_size
from lm.linears.base import Roles
from lm.optimizers.base import Named, Optimizer, State, decayed_and_plain
from lm.optimizers.by_role import ByRole
from lm.optimizers.cautious import Cautious, Totals, adam_step_, agreeing, coefficient, decay_


class Iteration(NamedTuple):
    """Steps of Newton-Schulz, and whose polynomials they are."""

    steps: int
    coefficients: Coefficients = "jordan"


def orthogonalised(updates: list[Tensor], iteration: Iteration) -> tuple[list[Tensor], list[int]]:
    """(each matrix by Newton-Schulz, in fp32, and its longer side). Every rank gives the same matrices and gets all of them.

    Each rank does some of the batches, shared out by their cost, and gets the rest from the others, 2 bytes an entry on a GPU
    and 4 on a CPU. A batch is no other with more ranks, so neither are the bits.
    """
    shapes = [(matrix.shape[0], matrix.shape[1]) for matrix in updates]
    every = batches(shapes, updates[0].is_cuda)
    owners = shared_out([cost([shapes[index] for index in batch]) for batch in every], world_size())
    found: list[Tensor | None] = [None] * len(shapes)
    owner_of = [0] * len(shapes)
    for batch, owner in zip(every, owners, strict=True):
        mine = (
            newton_schulz([updates[index] for index in batch], *iteration) if owner == rank() else [None] * len(batch)
        )
        for index, matrix in zip(batch, mine, strict=True):
            owner_of[index], found[index] = owner, matrix
    whole = from_owners(found, owner_of, shapes, matmul_dtype(updates[0]), updates[0].device)
    return [matrix.float() for matrix in whole], [max(shape) for shape in shapes]


def muon_(
    weights: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    iteration: Iteration,
    weight_decay: float,
    orthogonal: Callable[[list[Tensor], Iteration], tuple[list[Tensor], list[int]]] = orthogonalised,
    cautious: bool = False,
    cautious_decay: bool = False,
    totals: Totals = list,
) -> None:
    """Update weights and momenta in place; each weight moves by 0.2 lr root-mean-square, whatever its shape.

    An orthogonal (O, I) matrix has rms 1/sqrt(max(O, I)), so it is scaled by 0.2 sqrt(max(O, I)): the rms of a typical
    AdamW update (Liu et al., equation 4). Differs from both sources on a CPU alone: fp32, not bf16, which many only emulate.
    orthogonal: `orthogonalised`, or what does the same to parts of matrices. totals: what `agreeing` sums with.
    """
    torch._foreach_lerp_(momenta, grads, 1 - momentum)
    updates = torch._foreach_lerp(grads, momenta, momentum) if nesterov else momenta
    updates, sides = orthogonal(list(updates), iteration)
    if cautious:
        updates = agreeing(updates, grads, totals)
    decay_(weights, updates, lr * weight_decay, cautious_decay)
    torch._foreach_mul_(updates, [-lr * 0.2 * math.sqrt(side) for side in sides])
    torch._foreach_add_(weights, updates)


class MuonOptimizer(Optimizer):
    """Holds momentum of every hidden matrix, and exp_avg, exp_avg_sq and step of every other weight."""

    whole_tensors = True

    def orthogonal(
        self, weights: list[Tensor], updates: list[Tensor], iteration: Iteration
    ) -> tuple[list[Tensor], list[int]]:
        """`orthogonalised` updates of these weights. What of a matrix is needed whole is needed here and in `totals` alone: one
        who holds parts of weights puts something else in the place of both, and everything else holds for the parts."""
        return orthogonalised(updates, iteration)

    def direction(
        self, weights: list[Tensor], state: State, group: dict[str, Any]
    ) -> Callable[[list[Tensor], Iteration], tuple[list[Tensor], list[int]]]:
        """What makes the direction of these weights' updates of their momenta, and says the longer sides of the matrices."""
        return partial(self.orthogonal, weights)

    def update(self, weights: list[Tensor], grads: list[Tensor], state: State, group: dict[str, Any]) -> None:
        if group["orthogonal"]:
            muon_(
                weights,
                grads,
                state["momentum"],
                **{key: group[key] for key in ("lr", "momentum", "nesterov", "cautious", "cautious_decay")},
                iteration=Iteration(group["steps"], group["coefficients"]),
                weight_decay=coefficient(group),
                orthogonal=self.direction(weights, state, group),
                totals=partial(self.totals, weights),
            )
            return
        by = {key: group[f"adamw_{key}"] for key in ("beta1", "beta2", "eps")}
        adam_step_(weights, grads, state, group, partial(self.totals, weights), **by)


class OrthogonalConfig(Cautious, ByRole):
    """The parameters of Muon and its variants."""

    lr: float = Field(
        5e-3, gt=0, description="of hidden matrices; an update's rms is 0.2 of it. Jordan's 0.02 in this unit"
    )
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    steps: int = Field(5, gt=0, description="Newton-Schulz iterations")
    coefficients: Coefficients = Field(
        "jordan",
        description="of the iterations: jordan's leave singular values in 0.7 to 1.2, polar_express's, Amsel et al. 2025 "
        "(arXiv:2505.16932, algorithm 1), are other ones in each step, and nearer to 1",
    )
    weight_decay: float = Field(0.1, ge=0, description="times lr, per update; never norms or biases")
    adamw_lr: float = Field(1e-2, gt=0, description="of embeddings, head, norms and biases")
    adamw_beta1: float = Field(0.9, ge=0, lt=1)
    adamw_beta2: float = Field(0.95, ge=0, lt=1)
    adamw_eps: float = Field(1e-8, gt=0)

    def groups(self, named: Named, roles: Roles, slots: tuple[str, ...] = ("momentum",)) -> list[dict[str, Any]]:
        """Groups of matrices, whose state has these slots, of tables, and of vectors, without decay, and of roles with settings
        of their own; each where it has members."""
        hidden = [weight for name, weight in named if roles[name] == "matrix"]
        others = [(name, weight) for name, weight in named if roles[name] != "matrix"]
        of_adamw = {"orthogonal": False, "slots": ("step", "exp_avg", "exp_avg_sq")}
        by_adamw = {**of_adamw, "base_lr": self.adamw_lr, "lr": self.adamw_lr}
        groups = (
            [{"params": hidden, "orthogonal": True, "slots": slots, "base_lr": self.lr, "lr": self.lr}]
            if hidden
            else []
        )
        rest = [{**by_adamw, **group} for group in decayed_and_plain(others, roles)]
        return groups + self.split(rest, others, roles, "adamw_")
