"""Bits per byte on held-out documents, beside what gzip needs for the same bytes."""

import gzip
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lm.model import Decoder
from lm.training.conversations import token_logps


@dataclass(frozen=True)
class Window:
    """A stretch of one document: its ids, and how many predictions at its end are to be counted."""

    document: int
    ids: Tensor
    counted: int


def windows_of(document: int, ids_N: Tensor, context: int) -> list[Window]:
    """Windows of at most context + 1 tokens that overlap by half, so that each token after the first is counted once,
    and with at least half a context before it where the document has that much."""
    windows, done = [], 1
    while done < len(ids_N):
        end = min(len(ids_N), context + 1 if done == 1 else done + context // 2)
        windows.append(Window(document, ids_N[max(0, end - context - 1) : end], end - done))
        done = end
    return windows


@torch.inference_mode()
def document_bits(model: Decoder, documents: list[Tensor], progress, batch: int = 16) -> list[float]:
    """Bits the model needs for each document, given as ids that begin with the end-of-text token that opens it.

    Windows are batched by length, longest first; padding on the right reaches no counted prediction.
    """
    device = model.embedding.weight.device
    windows = [w for i, ids in enumerate(documents) for w in windows_of(i, ids, model.config.context)]
    windows.sort(key=lambda w: (-len(w.ids), w.document))
    bits = [0.0] * len(documents)
    for start in range(0, len(windows), batch):
        group = windows[start : start + batch]
        ids = torch.zeros(len(group), len(group[0].ids), dtype=torch.int64)
        for row, window in enumerate(group):
            ids[row, : len(window.ids)] = window.ids
        logps = token_logps(model, ids.to(device)).double().cpu()
        for row, window in enumerate(group):
            last = len(window.ids) - 1
            bits[window.document] -= logps[row, last - window.counted : last].sum().item() / math.log(2)
        progress(min(start + batch, len(windows)), len(windows), "window")
    return bits


def gzip_bits(text: str) -> float:
    """Bits of `gzip -9` for one document by itself, its 18 bytes of header and trailer included."""
    return 8.0 * len(gzip.compress(text.encode(), 9, mtime=0))
