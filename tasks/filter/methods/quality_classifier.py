"""A linear classifier trained on good and bad texts, in the manner of fastText (Joulin et al. 2016, arXiv:1607.01759).

A text is the mean of the embeddings of its words and pairs of neighbouring words, hashed into buckets; a logistic regression
on it says how much it looks like the good ones. Differs: words have no dictionary but buckets as well; one weight and a bias in
place of two weights and a softmax; what training never saw counts for nothing; one thread, so that the same texts give the
same bits. As nothing but a dot product comes after the mean, each bucket's is taken once and a text costs a sum of numbers.
[Not implemented]: hierarchical softmax, subwords, quantised models.
"""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.core.tables import read_batches, shard_paths
from tasks.filter.engine.examples import read_examples
from tasks.filter.engine.file_cache import cached_by_file
from tasks.filter.engine.lowered import lowered
from tasks.filter.engine.ranks import score_at
from tasks.filter.rule import Batch, Judgement, Setting

TRAINING_WORDS = 4096  # of an example, that are learnt from
HELD_OUT = 10  # one example in as many


def trained(
    good: list[str], bad: list[str], bits: int, width: int, epochs: int, lr: float, seed: int
) -> tuple[np.ndarray, float]:
    """(worth_V, bias): what each of 2**bits buckets adds to the mean. Examples are taken in an order drawn from the seed."""
    from tasks.filter.engine.compiled_classifier import train

    generator = np.random.Generator(np.random.Philox(key=seed))
    embedding_VD = generator.random((1 << bits, width), np.float32) * np.float32(2 / width) - np.float32(1 / width)
    is_good_N = np.arange(len(good) + len(bad)) < len(good)
    order = generator.permutation(len(is_good_N))
    texts = lowered(pa.array(good + bad, pa.large_string()))
    room = 2 * TRAINING_WORDS
    weight_D, bias, seen_V = train(*texts, is_good_N.astype(np.int64), order, epochs, lr, embedding_VD, room)
    worth_V = np.zeros(1 << bits, np.float32)
    for d in range(width):  # in this order on every machine, as a product of matrices would not be
        worth_V += embedding_VD[:, d] * weight_D[d]
    return np.where(seen_V, worth_V, np.float32(0)), float(bias)


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """The probability that a good text scores above a bad one, ties counted half."""
    order = np.sort(bad)
    below = np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")
    return float(below.mean() / (2 * len(bad)))


@cached_by_file
def read_model(path: Path) -> tuple[np.ndarray, dict[str, float]]:
    """What `prepare` wrote: worth_V, and {bias, threshold}; `path` is that of classifier.json."""
    return np.load(path.with_name("worth.npy")), json.loads(path.read_text())


def score_shard(item: tuple[str, list[str] | None, str], folder: Path) -> dict[str, Any]:
    """Write scores.npy of a shard's documents that are of the sources."""
    from tasks.filter.engine.compiled_classifier import probabilities

    shard, sources, model = item
    worth_V, facts = read_model(Path(model))
    scores = [np.empty(0, np.float32)]
    with pq.ParquetFile(shard) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, ["source", "text"])
            if sources is not None:
                table = table.filter(pc.is_in(table["source"], pa.array(sources, pa.string())))
            for batch in table.to_batches():
                data, places = lowered(batch["text"])
                scores.append(probabilities(data, places, worth_V, facts["bias"]))
    np.save(folder / "scores.npy", np.concatenate(scores))
    return {"documents": sum(map(len, scores))}


class QualityClassifier(Config):
    name: Literal["quality_classifier"] = "quality_classifier"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    good: str = Field(
        "data/references/good", description="a file or folder of .txt, .jsonl (compressed or not) or .parquet"
    )
    bad: str | None = Field(None, description="likewise; the documents themselves when absent")
    examples: int = Field(100_000, gt=1, description="of each, at most; the larger side is cut to the smaller")
    threshold: float = Field(0.5, ge=0, le=1, description="documents that score lower go")
    keep_fraction: float | None = Field(
        None, gt=0, le=1, description="in place of the threshold: the best of the documents"
    )
    bucket_bits: int = Field(20, ge=8, le=26, description="2 ** bits buckets")
    width: int = Field(16, gt=0)
    epochs: int = Field(5, gt=0)
    lr: float = Field(0.5, gt=0)
    seed: int = 0

    @property
    def reads(self) -> list[str]:
        return [self.good, *([self.bad] if self.bad else [])]

    def prepare(self, setting: Setting) -> None:
        """Train, and with keep_fraction score every document. Raises ConfigError for examples that cannot be used."""
        good = read_examples("filter.quality_classifier.good", Path(self.good), self.examples)
        bad = (
            read_examples("filter.quality_classifier.bad", Path(self.bad), self.examples)
            if self.bad
            else self._documents(setting.documents)
        )
        count = min(len(good), len(bad))
        if count < 2:
            raise ConfigError(f"filter.quality_classifier: {len(good)} good and {len(bad)} bad texts; give two of each")
        good, bad = good[:count], bad[:count]
        if count >= HELD_OUT:
            setting.log.fact(classifier_auc=self._auc_of_held_out(good, bad))
        worth_V, bias = self._trained(good, bad)
        np.save(setting.folder / "worth.npy", worth_V)
        model = setting.folder / "classifier.json"
        model.write_text(json.dumps({"bias": bias, "threshold": self.threshold}))
        if self.keep_fraction is not None:
            items = [(str(path), self.sources, str(model)) for path in shard_paths(setting.documents)]
            parts = setting.log.map(score_shard, items, "classifier_scores")
            total = sum(part.facts["documents"] for part in parts)
            rank = total - math.ceil(self.keep_fraction * total) + 1
            threshold = score_at([part.folder / "scores.npy" for part in parts], rank) if total else self.threshold
            model.write_text(json.dumps({"bias": bias, "threshold": threshold}))

    def _documents(self, documents: Path) -> list[str]:
        """The first documents of the sources: their order is that of a hash, so they are a sample."""
        rows = (
            text
            for batch in read_batches(documents, ["source", "text"])
            for source, text in zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if self.sources is None or source in self.sources
        )
        return list(islice(rows, self.examples))

    def _trained(self, good: list[str], bad: list[str]) -> tuple[np.ndarray, float]:
        return trained(good, bad, self.bucket_bits, self.width, self.epochs, self.lr, self.seed)

    def _auc_of_held_out(self, good: list[str], bad: list[str]) -> float:
        """How well the two are told apart by a model that has not seen one in HELD_OUT of them."""
        from tasks.filter.engine.compiled_classifier import probabilities

        worth_V, bias = self._trained(*[[t for i, t in enumerate(texts) if i % HELD_OUT] for texts in (good, bad)])
        held = [lowered(pa.array(texts[::HELD_OUT], pa.large_string())) for texts in (good, bad)]
        scores = [probabilities(data, places, worth_V, bias) for data, places in held]
        return area_under_curve(*scores)

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """score_quality is the probability of a good text."""
        from tasks.filter.engine.compiled_classifier import probabilities

        worth_V, facts = read_model(folder / "classifier.json")
        data, places = batch.cached("lowered", lowered)
        scores, reasons = (
            probabilities(data, places, worth_V, facts["bias"]),
            np.full(len(batch.texts), None, dtype=object),
        )
        reasons[scores < np.float32(facts["threshold"])] = "low_quality"
        return Judgement(reasons, scores={"quality": scores})
