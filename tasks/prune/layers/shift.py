"""How far the model's output moves without a layer: LD-Pruner, Castells et al. 2024 (arXiv:2404.11936), of blocks of a
decoder."""

from collections.abc import Callable
from typing import Literal

from lm.calibration import Batch
from lm.config import Config
from lm.model import Decoder


class Shift(Config):
    """Squared distance of what the head reads, between the model and the one without the layer, over its square, summed over
    the tokens. Differs from the paper: a decoder's last hidden state in the place of a latent image, and its squared distance
    in the place of distances of mean and deviation."""

    name: Literal["shift"] = "shift"

    def __call__(self, model: Decoder, batches: list[Batch], progress: Callable[[int, int, str], None]) -> list[float]:
        layers, device = model.config.layers, model.embedding.weight.device
        scores = []
        for gone in range(layers):
            other = model.select_layers([n for n in range(layers) if n != gone])
            moved = length = 0.0
            for ids_BT, real_BT in batches:
                mask = real_BT.to(device)
                whole, less = (each.hidden(ids_BT.to(device))[mask].double() for each in (model, other))
                moved += (whole - less).square().sum().item()
                length += whole.square().sum().item()
            scores.append(moved / length if length else 0.0)
            progress(gone + 1, layers, "layer")
        return scores
