"""Few values while training: each product is made with the nearest of 2^bits centroids, which move with the weights: DKM (Cho
et al. 2022, arXiv:2108.12659, algorithm 1), whose memory is that of eDKM (Cho et al. 2023, arXiv:2309.00964, section 2.2).

A weight attends to every centroid by their distance, a centroid is the mean of what attends to it, and gradients pass through
both. Weights of 16 bits have at most 2^16 values: what attends to what is a table with a row a value, held once for all weights
that have it, and a large matrix needs no more for its backward pass than that table and its weights' 16-bit numbers.

Differs from the papers: products are made with the nearest centroid, as the trained model's will be, and not with the mean of
those that a weight attends to, whose gradients they have; of the iterations of k-means the last alone is differentiated, the
others are made once a step; what is saved is neither moved to the CPU nor divided among learners.

Letters: O outputs, I inputs, U values of weights, K centroids.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.config import ConfigError
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, dense_flops, is_a_part
from lm.linears.few_bits import CodedLinearMethod
from lm.quantized.palette import Palette, pack_palette

PATTERNS = 2**16  # of bits that a bfloat16 has


class Values(NamedTuple):
    """What weights are: value_U in fp32, counts_U how many have it, row the number of each weight's value, (O * I)."""

    value_U: Tensor
    counts_U: Tensor
    row: Tensor


def values_of(weight_OI: Tensor, shared: bool) -> Values:
    """The weights rounded to bfloat16: a value for each pattern of 16 bits where they are shared, else one for each weight."""
    rounded = weight_OI.detach().to(torch.bfloat16).flatten()
    if not shared:
        return Values(
            rounded.float(),
            torch.ones_like(rounded, dtype=torch.float32),
            torch.arange(len(rounded), device=rounded.device),
        )
    row = rounded.view(torch.int16).long() + PATTERNS // 2
    patterns = (
        torch.arange(-PATTERNS // 2, PATTERNS // 2, device=row.device).to(torch.int16).view(torch.bfloat16).float()
    )
    counts = torch.zeros(PATTERNS, device=row.device).index_add(0, row, torch.ones(len(row), device=row.device))
    return Values(torch.where(counts > 0, patterns, 0.0), counts, row)  # of patterns that no weight has some are NaN


def attention(value_U: Tensor, centroids_K: Tensor, temperature: Tensor) -> Tensor:
    """shares_UK: softmax over centroids of minus the distance over the temperature."""
    return (-(value_U[:, None] - centroids_K).abs() / temperature).softmax(1)


def moved(values: Values, centroids_K: Tensor, temperature: Tensor) -> Tensor:
    """Each centroid as the mean of the weights by how much they attend to it; one that none attends to stays."""
    mass_UK = values.counts_U[:, None] * attention(values.value_U, centroids_K, temperature)
    mass_K = mass_UK.sum(0)
    there = mass_K > 1e-12
    return torch.where(there, (mass_UK * values.value_U[:, None]).sum(0) / mass_K.where(there, 1.0), centroids_K)


def nearest(value_U: Tensor, centroids_K: Tensor) -> Tensor:
    """The number of the centroid that is nearest to each value; of two the lower."""
    return (value_U[:, None] - centroids_K).abs().argmin(1)


def slopes(
    values: Values, grad_U: Tensor, before_K: Tensor, centroids_K: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """(own_U, others_U) of w(v) = sum_k share_k(v) c_k, the c being `before_K` moved once.

    own_U: the derivative of a weight by itself, centroids held. others_U: that of the loss by one weight of each value, by way
    of all centroids. grad_U: the loss's derivatives, summed over the weights of each value.
    """
    value_U1 = values.value_U[:, None]
    side_UK = (value_U1 - centroids_K).sign() / temperature
    share_UK = attention(values.value_U, centroids_K, temperature)
    soft_U1 = share_UK @ centroids_K[:, None]
    pulled_UK = share_UK * (centroids_K - soft_U1) * side_UK
    of_centroid_K = (grad_U[:, None] * (share_UK + pulled_UK)).sum(0)
    first_UK = attention(values.value_U, before_K, temperature)
    turn_UK = -(value_U1 - before_K).sign() / temperature
    turn_UK = first_UK * (turn_UK - (first_UK * turn_UK).sum(1, keepdim=True))
    mass_K = (values.counts_U[:, None] * first_UK).sum(0)
    per_mass_K = torch.where(mass_K > 1e-12, of_centroid_K / mass_K.where(mass_K > 1e-12, 1.0), 0.0)
    others_U = ((first_UK + (value_U1 - centroids_K) * turn_UK) * per_mass_K).sum(1)
    return -pulled_UK.sum(1), others_U


class Clustered(torch.autograd.Function):
    """Weights as their nearest centroids, with the gradients of weights that attend to all of them."""

    @staticmethod
    def forward(ctx: Any, weight_OI: Tensor, before_K: Tensor, temperature: Tensor, shared: bool) -> Tensor:
        values = values_of(weight_OI, shared)
        centroids_K = moved(values, before_K, temperature)
        stored_K = centroids_K.to(torch.bfloat16).float()
        row = values.row.add(-PATTERNS // 2).to(torch.int16) if shared else values.row[:0]
        ctx.save_for_backward(values.value_U, values.counts_U, row, before_K, centroids_K, temperature)
        # a view at last: torch 2.11 compiles gradients of zero through a result that was cast to the dtype it had
        return stored_K.to(weight_OI.dtype)[nearest(values.value_U, stored_K)][values.row].view_as(weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_OI: Tensor) -> tuple[Tensor, None, None, None]:
        value_U, counts_U, row, before_K, centroids_K, temperature = ctx.saved_tensors
        grad = grad_OI.flatten().float()
        if len(row):
            row = row.long() + PATTERNS // 2
            values, grad_U = Values(value_U, counts_U, row), torch.zeros_like(value_U).index_add(0, row, grad)
        else:
            values, grad_U = Values(value_U, counts_U, row), grad
        own_U, others_U = slopes(values, grad_U, before_K, centroids_K, temperature)
        if len(row):
            own_U, others_U = own_U[row], others_U[row]
        return (grad * own_U + others_U).view_as(grad_OI).to(grad_OI.dtype), None, None, None


class ClusteredLinear(ReparametrizedLinear):
    """x (nearest centroid of W)^T + bias."""

    centroids: Tensor
    temperature: Tensor

    def __init__(self, linear: nn.Linear, method: "Centroids") -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.bits, self.iterations = method.bits, method.iterations
        # with fewer weights than patterns the table of patterns is the larger one
        self.shared = self.weight.numel() > PATTERNS
        weight = self.weight.detach().float()
        places = (torch.arange(2**self.bits, device=weight.device) + 0.5) / 2**self.bits * (weight.numel() - 1)
        self.register_buffer("centroids", weight.flatten().sort().values[places.long()], persistent=False)
        # no checkpoint holds it: it follows from the weights that a run begins with
        gap = 4 * weight.std(correction=0).clamp(min=1e-30) / 2**self.bits
        self.register_buffer("temperature", method.temperature * gap, persistent=False)
        self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """Bring the centroids to where the weights are."""
        values = values_of(self.weight, self.shared)
        for _ in range(self.iterations):
            self.centroids.copy_(moved(values, self.centroids, self.temperature))

    def begin(self, step: int, turn: bool) -> None:
        if is_a_part(self.weight):
            raise ConfigError("linear: clustered needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp")
        self.cluster()

    def state(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids}

    def load(self, state: dict[str, Tensor]) -> None:
        self.centroids.copy_(state["centroids"])

    def dense(self) -> Tensor:
        found: Tensor = Clustered.apply(self.weight, self.centroids, self.temperature, self.shared)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(), self.bias)

    def flops(self) -> float:
        """Without those of the centroids, which do not grow with tokens."""
        return dense_flops(self.weight)

    @torch.no_grad()
    def packed(self) -> Palette:
        """The numbers of the centroids that the product is made with."""
        values = values_of(self.weight, self.shared)
        stored_K = moved(values, self.centroids, self.temperature).to(torch.bfloat16)
        numbers = nearest(values.value_U, stored_K.float())[values.row]
        return pack_palette(numbers.view_as(self.weight), stored_K, self.bits)


class Centroids(CodedLinearMethod, SelectiveLinearMethod):
    name: Literal["clustered"] = "clustered"
    bits: Literal[1, 2, 3, 4] = 3
    temperature: float = Field(
        0.1,
        gt=0,
        description="of the attention, in parts of the distance between centroids, 4 standard deviations / 2^bits",
    )
    iterations: int = Field(4, gt=0, description="of k-means before each step, from the centroids of the step before")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer of centroids, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return ClusteredLinear(linear, self)
