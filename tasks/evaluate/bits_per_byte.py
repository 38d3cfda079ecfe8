"""Bits per byte on held-out documents with the interval that their number allows, beside what gzip needs for the same bytes."""

import gzip
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.model import Decoder
from lm.training.conversations import token_logps

RESAMPLES, SEED = 2000, 0


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


def per_byte(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Bits per byte of the model and of gzip, over all documents and over those of each source, and the model's interval.

    rows: `source`, `group`, `bytes`, `bits` and `gzip_bits` of each document. What has no byte has no figure.
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
    """The 95% interval of bits per byte: percentiles of what comes when as many groups as there are of each source are drawn
    from them with replacement (Efron 1979; Davison and Hinkley 1997, chapters 2.4 and 3.2). None of fewer than two groups.

    A group is drawn as a whole, since its documents tell about each other. The sources keep their shares: these were chosen.
    """
    generator = np.random.Generator(np.random.Philox(key=SEED))
    drawn_R = np.zeros((RESAMPLES, 2))
    for groups_G in strata(rows):
        if len(groups_G) < 2:
            return None
        for drawn in drawn_R:
            drawn += groups_G[generator.integers(len(groups_G), size=len(groups_G))].sum(0)
    if not drawn_R[:, 1].all():
        return None
    low, high = np.quantile(drawn_R[:, 0] / drawn_R[:, 1], (0.025, 0.975))
    return float(low), float(high)


def strata(rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """Bits and bytes of the groups of each source (G, 2), whatever the order of the rows. A source of one group, which does not
    say how far another would lie from it, goes with the others that have one; that alone, with the source of the fewest."""
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for row in sorted(rows, key=lambda row: row["id"]):
        if row["bytes"]:
            group = sums[row["source"]][row["group"]]
            group[0] += row["bits"]
            group[1] += row["bytes"]
    every = [np.array([groups[name] for name in sorted(groups)]) for _, groups in sorted(sums.items())]
    every.sort(key=len)  # stable, so by name where they are as many
    alone = sum(len(groups_G) == 1 for groups_G in every)
    together = 2 if alone == 1 else alone
    return [np.concatenate(every[:together]), *every[together:]] if alone else every
