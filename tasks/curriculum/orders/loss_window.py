"""A window over clusters of loss that slides from easy to hard, after SeTa (Zhou et al., CVPR 2025, arXiv:2503.13385).

In each epoch a random share of the documents is dropped, and only clusters inside the window are trained on: not those that
are too easy by now, nor those still too hard. The last part of the run is on everything, as the paper's annealing is. Clusters
are those of k-means over the scores.

Differs from the paper in what matters most: there the loss is the model's own, measured anew in every epoch; here it is a
column that is given beforehand, such as the perplexity under another checkpoint, so a document does not become easier by
being learnt. An epoch here is an equal part of the budget, not a pass, and the window slides once over the run. Defaults are
those of the authors' example scripts.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.curriculum.plan import DocumentOrder, Documents, shuffled
from tasks.curriculum.stream import rounds


def clusters_of(values: np.ndarray, count: int, iterations: int = 100) -> np.ndarray:
    """The cluster of each value, 0 the lowest: Lloyd's k-means in one dimension, begun at equally spaced quantiles.

    Sums are taken along the sorted values, one after another, so that they are the same on every machine.
    """
    ordered = np.sort(values).astype(np.float64)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    edges = np.arange(count + 1) * len(ordered) // count
    for _ in range(iterations):
        sizes = np.diff(edges)
        centres = np.diff(sums[edges]) / np.maximum(sizes, 1)
        centres = centres[sizes > 0]
        between = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        moved = np.concatenate(([0], between, [len(ordered)]))
        if np.array_equal(moved, edges):
            break
        edges = moved
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values.astype(np.float64), side="left")


class LossWindow(Config):
    name: Literal["loss_window"] = "loss_window"
    score: str = Field(description="of difficulty, such as a perplexity: high is hard; names as in by_score")
    drop: float = Field(0.1, ge=0, lt=1, description="share of the documents, drawn anew each epoch, that is left out")
    clusters: int = Field(5, gt=0)
    window: float = Field(0.9, gt=0, le=1, description="share of the clusters that are trained on at once")
    epochs: int = Field(8, gt=0, description="parts of the run with a window each")
    anneal: float = Field(0.125, ge=0, lt=1, description="share of the tokens, at the end, without a window")

    def __call__(self, documents: Documents, tokens: int, seed: int) -> DocumentOrder:
        """A window of the plan is an epoch."""
        cluster = clusters_of(documents.score(self.score, "curriculum.order.score"), self.clusters)
        highest = int(cluster.max())
        wide = max(1, int(self.window * (highest + 1)))
        last = round(self.anneal * tokens)
        edges = [(tokens - last) * epoch // self.epochs for epoch in range(self.epochs + 1)]
        found = []
        for epoch, size in enumerate(np.diff(edges).tolist()):
            lowest = round(epoch * (highest + 1 - wide) / max(self.epochs - 1, 1))
            inside = np.flatnonzero((cluster >= lowest) & (cluster < lowest + wide))
            left = inside[shuffled(len(inside), seed, (2 << 40) + epoch)][
                : max(1, round(len(inside) * (1 - self.drop)))
            ]
            found.append(rounds(np.sort(left), documents.length, size, seed, 4 + epoch) if size else left[:0])
        found.append(rounds(np.arange(len(cluster)), documents.length, last, seed, 3) if last else cluster[:0])
        return DocumentOrder(np.concatenate(found), np.repeat(np.arange(len(found)), [len(part) for part in found]))
