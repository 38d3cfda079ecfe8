"""Bits where they are felt: each matrix as many as its share of what the whole model may take is worth.

After Dong et al. 2020 (HAWQ-V2, arXiv:1911.03852), which adds up what each layer by itself does to the loss and takes the
choice that does least under a budget. Differs from the paper: what a matrix does is measured, by the divergence of the model's
predictions once it alone is rounded, and not told from the trace of its Hessian.
"""

from collections.abc import Mapping
from math import gcd
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from lm.calibration import Batch
from lm.checkpoint import device
from lm.config import ConfigError
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.quantized.base import PackedMatrix
from lm.softcap import capped
from tasks.quantize.grid import Bits, round_by_group
from tasks.quantize.widths.base import NONE, Progress, Width

# Rows of predictions that are compared at once: bounds memory by their vocabularies
ROWS = 1024
# Steps in which a budget is counted, at most: a byte for each of them and each matrix
UNITS = 1 << 17


def cheapest_within(nats: dict[str, list[float]], sizes: dict[str, list[int]], budget: int) -> dict[str, int]:
    """The place of the choice for each name: those that together lose the fewest nats in at most `budget` bytes, and of these
    the fewest bytes. nats, sizes: of every choice, by rising sizes; the smallest of all must fit.

    Solved exactly, as a knapsack with one choice a name, where the bytes above the smallest are at most UNITS times what
    divides them all; else sizes are rounded up to a multiple of that, of which UNITS are enough: what is taken fits all the
    same.
    """
    room = budget - sum(each[0] for each in sizes.values())
    extra = {name: [size - each[0] for size in each] for name, each in sizes.items()}
    divisor = max(gcd(*(size for each in extra.values() for size in each)), 1)
    unit = divisor * max(-(-room // (divisor * UNITS)), 1)
    lost_U = np.full(room // unit + 1, np.inf)  # by units spent, over the names so far
    lost_U[0] = 0
    picked: dict[str, tuple[np.ndarray, list[int]]] = {}
    for name, each in extra.items():
        costs = [-(-size // unit) for size in each]
        least_U, place_U = np.full_like(lost_U, np.inf), np.zeros(len(lost_U), np.uint8)
        for place, (cost, more) in enumerate(zip(costs, nats[name], strict=True)):
            sum_U = np.full_like(lost_U, np.inf)
            sum_U[cost:] = lost_U[: max(len(lost_U) - cost, 0)] + more
            better_U = sum_U < least_U
            least_U[better_U], place_U[better_U] = sum_U[better_U], place
        lost_U, picked[name] = least_U, (place_U, costs)
    spent, taken = int(lost_U.argmin()), {}
    for name, (place_U, costs) in reversed(picked.items()):
        taken[name] = int(place_U[spent])
        spent -= costs[taken[name]]
    return taken


class Budget(Width):
    """What divergences add up to is what is minimised, so that matrices which make each other's errors worse are not seen."""

    name: Literal["budget"] = "budget"
    needs_calibration: ClassVar[bool] = True
    bits_per_weight: float = Field(
        4.0, gt=0, description="of the blocks' matrices together, scales and minima among them, at most"
    )
    of: list[Bits] = Field([2, 3, 4, 8], min_length=2, description="what a matrix may get")
    batches: int = Field(1, gt=0, description="of the calibration by which the divergence is measured")

    @field_validator("of")
    @classmethod
    def _rising(cls, bits: list[int]) -> list[int]:
        if sorted(set(bits)) != bits:
            raise ValueError(f"{bits}: name each once, the fewest first")
        return bits

    def check(self, method: Any) -> None:
        if not hasattr(method, "bits"):
            raise ConfigError(
                f"quantize.width: budget chooses bits, which {method.name} has not: choose rtn, gptq or awq"
            )

    @torch.no_grad()
    def choose_bits(
        self,
        model: Decoder,
        method: Any,
        batches: list[Batch],
        progress: Progress,
        trained: Mapping[str, PackedMatrix] = NONE,
    ) -> dict[str, int]:
        """Matrices that were trained in few bits are not chosen for, and what they take is not there for others. Raises
        ConfigError where the fewest bits of all are more than the budget, or there is nothing to measure by."""
        if not batches:
            raise ConfigError(
                "quantize.width: budget has nothing to measure by: ask for quantize.calibration.sequences"
            )
        roles, some = roles_of(model), batches[: self.batches]
        matrices = {n: w for n, w in model.named_parameters() if n.startswith("blocks.") and roles[n] == "matrix"}
        weights = {name: weight for name, weight in matrices.items() if name not in trained}
        count = sum(weight.numel() for weight in matrices.values())
        kept = sum(trained[name].num_bytes for name in matrices if name in trained)
        before = [model.hidden(ids.to(device()))[mask.to(device())] for ids, mask in some]
        nats: dict[str, list[float]] = {name: [] for name in weights}
        sizes: dict[str, list[int]] = {name: [] for name in weights}
        done = 0
        for name, weight in weights.items():
            exact = weight.clone()
            for bits in self.of:
                rounded = round_by_group(exact, bits, method.group, method.symmetric)
                weight.copy_(rounded.dequantize())
                nats[name].append(divergence(model, before, some))
                sizes[name].append(rounded.num_bytes + weight.shape[1] * method.bytes_a_column)
                done += 1
                progress(done, len(weights) * len(self.of), "width")
            weight.copy_(exact)
        allowed = int(self.bits_per_weight * count / 8) - kept
        if (least := sum(each[0] for each in sizes.values())) > allowed:
            weighs = 8 * (least + kept) / count
            beside = " beside matrices that were trained in few bits" if kept else ""
            raise ConfigError(
                f"quantize.width.bits_per_weight: {self.bits_per_weight} is below the {weighs:.3f} that {self.of[0]} bits take "
                f"with scales and minima for every {method.group} weights{beside}: allow more, or take larger groups"
            )
        return {name: self.of[place] for name, place in cheapest_within(nats, sizes, allowed).items()}


def divergence(model: Decoder, before: list[Tensor], batches: list[Batch]) -> float:
    """The mean over tokens of KL(predictions before || now), in nats. before: the hidden states of each batch."""
    total, count = torch.zeros((), dtype=torch.float64, device=model.embedding.weight.device), 0
    for old_ND, (ids, mask) in zip(before, batches, strict=True):
        new_ND = model.hidden(ids.to(device()))[mask.to(device())]
        for old_RD, new_RD in zip(old_ND.split(ROWS), new_ND.split(ROWS), strict=True):
            logits = (capped(F.linear(x, model.head_weight), model.config.logit_softcap) for x in (old_RD, new_RD))
            old_RV, new_RV = (each.log_softmax(1) for each in logits)
            total += F.kl_div(new_RV, old_RV, reduction="sum", log_target=True).double()
        count += len(old_ND)
    return float(total) / count
