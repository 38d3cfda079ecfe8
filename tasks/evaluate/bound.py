"""Bits of held-out documents by a model of masked diffusion: at most so many, since it has no likelihood that can be computed.

Of K tokens to count, a number l of them is masked, which is 1 to K with equal chances, at places by chance, and the
cross-entropies of the masked ones are summed, times K / l. The mean over both is the bound of the training loss with uniform
ratios (Nie et al. 2025, LLaDA, arXiv:2502.09992, equation 6, whose variance is less than that of ratios; Ou et al. 2024,
arXiv:2406.03736, section 3.3), which is also the mean over all orders of a likelihood, one token after the other: no less than
the negative logarithm of the likelihood that is the mean over orders. What is given is its estimate of some draws: its mean is
the bound.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model import Decoder
from lm.softcap import capped
from tasks.evaluate.bits_per_byte import windows_of

AT_MOST = "at_most_"
# A generator's, apart from those of whoever else counts from 0
SEED = 0x424F554E44


class Masked(NamedTuple):
    """A window once masked: its ids, which of them are masked, and what a document gets of their cross-entropies."""

    document: int
    ids: Tensor
    masked: Tensor
    weight: float


def masked_windows(document: int, ids_N: Tensor, context: int, draws: int) -> list[Masked]:
    """Draws of each window of a document, as many as asked for, whose first token is given and never masked. Numbers of masked
    tokens lie as evenly between 1 and all as they can, each by itself of equal chances."""
    found = []
    for place, window in enumerate(windows_of(document, ids_N, context - 1)):
        generator = np.random.Generator(np.random.Philox(key=[SEED, document], counter=[0, 0, place, 0]))
        points = (generator.random() + np.arange(draws) / draws) % 1.0
        L, K = len(window.ids), window.counted
        for number in 1 + np.floor(points * K).astype(int):
            masked = torch.zeros(L, dtype=torch.bool)
            masked[L - K + torch.from_numpy(generator.permutation(K)[:number])] = True
            found.append(Masked(document, window.ids, masked, K / int(number) / draws))
    return found


@torch.inference_mode()
def bound_bits(model: Decoder, documents: list[Tensor], draws: int, progress, batch: int = 16) -> list[float]:
    """Bits that the model needs for each document at most, as estimated by so many draws a window; documents are given as ids
    that begin with the end-of-text token that opens them. The model is not causal: padding is a document of its own."""
    device, mask_id = model.embedding.weight.device, model.config.mask_id
    every = [row for i, ids in enumerate(documents) for row in masked_windows(i, ids, model.config.context, draws)]
    every.sort(key=lambda row: (-len(row.ids), row.document))
    bits = [0.0] * len(documents)
    for start in range(0, len(every), batch):
        group = every[start : start + batch]
        L = len(group[0].ids)
        ids_BL, masked_BL = torch.zeros(len(group), L, dtype=torch.int64), torch.zeros(len(group), L, dtype=torch.bool)
        bounds = [len(group) * L]
        for place, row in enumerate(group):
            ids_BL[place, : len(row.ids)], masked_BL[place, : len(row.ids)] = row.ids, row.masked
            bounds += [place * L, place * L + len(row.ids)]
        ids_BL, masked_BL = ids_BL.to(device), masked_BL.to(device)
        x_BLD = model.hidden(ids_BL.masked_fill(masked_BL, mask_id), bounds=torch.tensor(sorted(set(bounds))))
        logits_NV = F.linear(x_BLD[masked_BL], model.head_weight[:mask_id])
        logits_NV = capped(logits_NV, model.config.logit_softcap)
        nats_N = F.cross_entropy(logits_NV, ids_BL[masked_BL], reduction="none").double().cpu()
        for row, nats in zip(group, nats_N.split([int(row.masked.sum()) for row in group]), strict=True):
            bits[row.document] += row.weight * nats.sum().item() / math.log(2)
        progress(min(start + batch, len(every)), len(every), "window")
    return bits


def token_by_token(config: Any) -> list[str]:
    """Keys of evaluation that ask a model for the next token, or for a likelihood, which one of masked diffusion has not."""
    asked = {"samples": config.samples, "tasks": config.tasks, "decoding": config.decoding}
    return [name for name, value in asked.items() if value] + ["max_overlap"] * (config.max_overlap is not None)


def rename_as_bounds(figures: dict[str, float]) -> dict[str, float]:
    """The figures, those of the model's bits under a name that says what they are."""
    return {f"{AT_MOST}{name}" if name.startswith("bits_per_byte") else name: value for name, value in figures.items()}
