"""Bits where they are felt: each matrix as many as its share of what the whole model may take is worth.

After Dong et al. 2020 (HAWQ-V2, arXiv:1911.03852), which adds up what each layer by itself does to the loss and takes the
choice that does least under a budget. Differs from the paper: what a matrix does is measured, by the divergence of the model's
predictions once it alone is rounded, and not told from the trace of its Hessian.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

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


def upgrades(nats: list[float], sizes: list[int]) -> list[tuple[float, int]]:
    """(nats saved a byte, its place) of each choice on the lower convex hull behind the smallest, from left to right: choices
    that a mixture of others beats are left out. nats and sizes: of every choice, by rising sizes."""
    found, here = [], 0
    while here + 1 < len(sizes):
        rates = [(nats[here] - nats[there]) / (sizes[there] - sizes[here]) for there in range(here + 1, len(sizes))]
        best = max(rates)
        if best <= 0:
            break
        here += 1 + max(place for place, rate in enumerate(rates) if rate == best)
        found.append((best, here))
    return found


def chosen(nats: dict[str, list[float]], sizes: dict[str, list[int]], budget: int) -> dict[str, int]:
    """The place of the choice for each name: from the smallest of all, the steps that save most a byte, as long as they fit."""
    steps = [
        (-rate, order, name, place)
        for name in nats
        for order, (rate, place) in enumerate(upgrades(nats[name], sizes[name]))
    ]
    taken, left = dict.fromkeys(nats, 0), budget - sum(each[0] for each in sizes.values())
    stopped: set[str] = set()
    for _, _, name, place in sorted(steps):
        cost = sizes[name][place] - sizes[name][taken[name]]
        if name in stopped or cost > left:
            stopped.add(name)  # what lies behind a step that does not fit would skip it
            continue
        taken[name], left = place, left - cost
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
        return {name: self.of[place] for name, place in chosen(nats, sizes, allowed).items()}


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
