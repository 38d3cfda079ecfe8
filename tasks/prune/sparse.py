"""Single weights of the blocks' matrices that go, and how many may: embeddings and head stay whole."""

import copy
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch

from lm.calibration import Batch, inputs_of
from lm.linears.base import roles_of
from lm.model import Decoder
from tasks.prune.nats import nats_of
from tasks.prune.weights import Magnitude

SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
TOLERATED = 0.01  # by which what a model loses may grow before a share is no longer essential's


@torch.no_grad()
def emptied(model: Decoder, way: Any, batches: list[Batch], progress: Callable[[int, int, str], None]) -> None:
    """Empty the matrices in place, block by block: later ones for what the earlier ones have become. Raises ValueError naming
    the weight that cannot be."""
    roles = roles_of(model)
    names = [name for name, _ in model.named_parameters() if name.startswith("blocks.") and roles[name] != "vector"]
    done = 0
    for _, group in groupby(names, lambda name: name.split(".")[1]):
        block = list(group)
        inputs = inputs_of(model, block, batches) if way.needs_inputs else {}
        for name in block:
            weight = model.get_parameter(name)
            try:
                weight.copy_(way(weight, inputs.get(name)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            done += 1
            progress(done, len(names), "matrix")


def essential(
    model: Decoder, batches: list[Batch], progress: Callable[[int, int, str], None]
) -> tuple[list[dict[str, float]], float]:
    """(share that went and nats, a row each; the largest share at which nats have grown by no more than TOLERATED, 0 where none
    is): the essential sparsity of Jaiswal et al. 2023 (arXiv:2306.03805), the knee behind which quality falls. The smallest
    weights go at once, without retraining; the model itself is left alone."""
    whole = nats_of(model, batches)
    rows = [{"share": 0.0, "nats": whole}]
    for place, share in enumerate(SHARES):
        other = copy.deepcopy(model)
        emptied(other, Magnitude(share=share), batches, lambda *told: None)
        rows.append({"share": share, "nats": nats_of(other, batches)})
        progress(place + 1, len(SHARES), "share")
    good = [row["share"] for row in rows if row["nats"] <= (1 + TOLERATED) * whole]
    return rows, max(good)
