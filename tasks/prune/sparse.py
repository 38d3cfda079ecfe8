"""Single weights of the blocks' matrices that go, and how many may: embeddings, those of layers too, and head stay whole."""

import copy
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch

from lm.calibration import Batch, collect_layer_inputs
from lm.linears.base import roles_of
from lm.model import Decoder
from tasks.prune.nats import nats_of

SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
TOLERATED = 0.01  # by which what a model loses may grow before a share is no longer essential's


def matrices_of(model: Decoder) -> list[str]:
    """Names of the weights that may go: those of a product within a block."""
    return [name for name, role in roles_of(model).items() if name.startswith("blocks.") and role == "matrix"]


@torch.no_grad()
def prune_matrices(model: Decoder, way: Any, batches: list[Batch], progress: Callable[[int, int, str], None]) -> None:
    """Empty the matrices in place, block by block: later ones for what the earlier ones have become. Raises ValueError naming
    the weight that cannot be."""
    names, done = matrices_of(model), 0
    for _, group in groupby(names, lambda name: name.split(".")[1]):
        block = list(group)
        inputs = collect_layer_inputs(model, block, batches) if way.needs_inputs else {}
        for name in block:
            weight = model.get_parameter(name)
            try:
                weight.copy_(way(weight, inputs.get(name)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            done += 1
            progress(done, len(names), "matrix")


@torch.no_grad()
def emptied_together(model: Decoder, share: float) -> None:
    """Empty the smallest weights of all the matrices in place, compared with one another wherever they are; of equals the
    first."""
    weights = [model.get_parameter(name) for name in matrices_of(model)]
    every = torch.cat([weight.abs().flatten() for weight in weights])
    going = torch.zeros_like(every, dtype=torch.bool)
    going[every.sort(stable=True).indices[: round(share * len(every))]] = True
    for weight, part in zip(weights, going.split([weight.numel() for weight in weights]), strict=True):
        weight.masked_fill_(part.view_as(weight), 0)


def essential_sparsity(
    model: Decoder, batches: list[Batch], progress: Callable[[int, int, str], None]
) -> tuple[list[dict[str, float]], float]:
    """(share that went and nats, a row each; the largest share at which nats have grown by no more than TOLERATED, 0 where none
    is): the essential sparsity of Jaiswal et al. 2023 (arXiv:2306.03805), the knee behind which quality falls. The smallest
    weights go at once, without retraining, by one threshold for all matrices; the model itself is left alone. Differs from the
    paper: what a model loses is told in nats a token, not in the score of a task that it was tuned for."""
    whole = nats_of(model, batches)
    rows = [{"share": 0.0, "nats": whole}]
    for place, share in enumerate(SHARES):
        other = copy.deepcopy(model)
        emptied_together(other, share)
        rows.append({"share": share, "nats": nats_of(other, batches)})
        progress(place + 1, len(SHARES), "share")
    good = [row["share"] for row in rows if row["nats"] <= (1 + TOLERATED) * whole]
    return rows, max(good)
