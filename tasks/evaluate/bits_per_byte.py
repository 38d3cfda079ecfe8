"""Bits per byte on held-out documents with the interval that their number allows, beside what gzip needs for the same bytes."""

import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model import Decoder
from lm.resampling import resampled_sums, strata
from lm.softcap import capped


@dataclass(frozen=True)
class Window:
    """A stretch of one document: its ids, how many predictions at its end are to be counted, and the place of its first token
    in the document."""

    document: int
    ids: Tensor
    counted: int
    start: int = 0


# What hears of windows and their logits_NV
Seen = Callable[[Sequence[Window], Tensor], None]


def windows_of(document: int, ids_N: Tensor, context: int) -> list[Window]:
    """Windows of at most context + 1 tokens that overlap by a quarter, so that each token after the first is counted once, and
    with at least a quarter of a context before it where the document has that much.

    Half in place of a quarter costs 30% more and takes 0.0002 of 1.7405 bits per byte off (every seventh held-out document of
    the default run); no overlap adds 0.006.
    """
    windows, done = [], 1
    while done < len(ids_N):
        end = min(len(ids_N), context + 1 if done == 1 else done + context - context // 4)
        start = max(0, end - context - 1)
        windows.append(Window(document, ids_N[start:end], end - done, start))
        done = end
    return windows


@torch.inference_mode()
def document_bits(
    model: Decoder, documents: list[Tensor], progress, batch: int = 16, seen: Seen | None = None
) -> list[float]:
    """Bits the model needs for each document, given as ids that begin with the end-of-text token that opens it.

    Windows are batched by length, longest first; padding on the right reaches no counted prediction. seen: given some windows
    and the logits of their counted predictions, one window after another.
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
        places = torch.tensor(
            [(row, t) for row, w in enumerate(group) for t in range(len(w.ids) - w.counted, len(w.ids))]
        )
        row_N, place_N = places.to(device).T
        ids = ids.to(device)
        logits_NV = F.linear(model.hidden(ids[:, :-1])[row_N, place_N - 1], model.head_weight)
        logits_NV = capped(logits_NV, model.config.logit_softcap)
        if seen is not None:
            seen(group, logits_NV)
        nats_N = F.cross_entropy(logits_NV, ids[row_N, place_N], reduction="none").double().cpu()
        for window, nats in zip(group, nats_N.split([window.counted for window in group]), strict=True):
            bits[window.document] += nats.sum().item() / math.log(2)
        progress(min(start + batch, len(windows)), len(windows), "window")
    return bits


def gzip_bits(text: str) -> float:
    """Bits of `gzip -9` for one document by itself, its 18 bytes of header and trailer included."""
    return 8.0 * len(gzip.compress(text.encode(), 9, mtime=0))


def per_byte(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Bits per byte of the model and of gzip, over all documents and over those of each source, and the model's interval.

    rows: `id`, `source`, `bytes`, `bits` and `gzip_bits` of each document. What has no byte has no figure.
    """
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in rows:
        for name in ("", f"_{row['source']}"):
            for place, column in enumerate(("bytes", "bits", "gzip_bits")):
                totals[name][place] += row[column]
    figures = {}
    for name, (size, bits, gzipped) in totals.items():
        if size:
            figures[f"bits_per_byte{name}"] = bits / size
            figures[f"gzip_bits_per_byte{name}"] = gzipped / size
    found = interval(rows)
    if found is not None:
        figures["bits_per_byte_low"], figures["bits_per_byte_high"] = found
    return figures


def interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """The 95% interval of bits per byte: percentiles of what comes when as many documents as there are of each source are drawn
    from them with replacement. None of fewer than two documents.

    The sources keep their shares: these were chosen. Documents of one group are drawn one by one, so this is how far other
    documents of these groups would lie; groups of other kinds may lie further.
    """
    found = strata(rows, ("bits", "bytes"))
    if not found or any(len(documents_N2) < 2 for documents_N2 in found):
        return None
    drawn_R2 = resampled_sums(found)
    low, high = np.quantile(drawn_R2[:, 0] / drawn_R2[:, 1], (0.025, 0.975))
    return float(low), float(high)
