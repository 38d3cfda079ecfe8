"""How far a layer turns what goes through it: block influence, ShortGPT, Men et al. 2024 (arXiv:2403.03853), equation 1."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.calibration import Batch
from lm.config import Config
from lm.model import Decoder


def stream(x_BTD: Tensor, waiting_BTD: Tensor | None) -> Tensor:
    """The residual stream, with what waits to be added to it."""
    return x_BTD if waiting_BTD is None else x_BTD + waiting_BTD


class Influence(Config):
    """1 less the cosine of the residual stream before and after the layer, the mean over tokens: one pass for all layers."""

    name: Literal["influence"] = "influence"

    def __call__(self, model: Decoder, batches: list[Batch], progress: Callable[[int, int, str], None]) -> list[float]:
        device = model.embedding.weight.device
        turned, count, mask = [0.0] * model.config.layers, 0, torch.empty(0)

        def see(number: int, given: Any, made: Any) -> None:
            before, after = (stream(each[0], each[1])[mask].double() for each in (given, made))
            turned[number] += (1 - F.cosine_similarity(before, after, dim=-1)).sum().item()

        hooks = [
            block.register_forward_hook(lambda _, given, made, number=number: see(number, given, made))
            for number, block in enumerate(model.blocks)
        ]
        for done, (ids_BT, real_BT) in enumerate(batches):
            mask = real_BT.to(device)  # what `see` reads
            model.hidden(ids_BT.to(device))
            count += int(mask.sum())
            progress(done + 1, len(batches), "batch")
        for hook in hooks:
            hook.remove()
        return [each / max(count, 1) for each in turned]
