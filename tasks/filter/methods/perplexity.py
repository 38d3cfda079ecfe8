"""Bits per byte under the Hugging Face model in checkpoint.folder, and a range of them that is kept.

CCNet (Wenzek et al. 2020, arXiv:1911.00359) ranks documents by the perplexity of an n-gram model; Marion et al. 2023
(arXiv:2309.04564) by that of a small transformer, and find the middle of the ranks best. Differs: bits per byte, so that
tokenizers compare; a document is read to the end of the model's context only. The model is somebody else's: one that this
pipeline trains would have to be trained before its own data is chosen.

One document at a time, whose bits are then the same wherever it stands and however the corpus is divided: on a processor a
document of 200 tokens fills it, a GPU would gain from batches that this does without.
"""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.core.tables import shard_paths
from tasks.filter.engine.file_cache import cached_by_file
from tasks.filter.engine.model_scores import bits_per_byte, read_checkpoint, write_scores
from tasks.filter.engine.ranks import score_at
from tasks.filter.rule import Batch, Judgement, Setting


@cached_by_file
def read_limits(path: Path) -> tuple[float, float]:
    """The least and the most bits per byte that `prepare` wrote."""
    found = json.loads(path.read_text())
    return found["least"], found["most"]


class Perplexity(Config):
    name: Literal["perplexity"] = "perplexity"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    least: float = Field(0.0, ge=0, description="bits per byte")
    most: float = Field(1000.0, gt=0, description="bits per byte")
    low_quantile: float = Field(0.0, ge=0, lt=1, description="of the documents, below which they go")
    high_quantile: float = Field(
        1.0, gt=0, le=1, description="above which they go; CCNet's middle third is 0.33 to 0.67"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Perplexity":
        if self.least >= self.most or self.low_quantile >= self.high_quantile:
            raise ValueError("least must be below most, and low_quantile below high_quantile")
        return self

    def prepare(self, setting: Setting) -> None:
        """Score every document of the sources, a file a shard; those that are there already are not made again."""
        files = [setting.folder / f"{number:05}.npy" for number in range(len(shard_paths(setting.documents)))]
        if not all(file.exists() for file in files):
            model, tokenizer, begins = read_checkpoint("filter.perplexity", setting.checkpoint)
            write_scores(setting, files, self.sources, lambda text: bits_per_byte(model, tokenizer, begins, text))
        total = sum(int((~np.isnan(np.load(file))).sum()) for file in files)
        if not total:
            raise ConfigError("filter.perplexity: no document of its sources has any text")
        low = score_at(files, math.floor(self.low_quantile * total) + 1)
        high = score_at(files, max(1, math.ceil(self.high_quantile * total)))
        limits = {"least": max(self.least, low), "most": min(self.most, high)}
        (setting.folder / "limits.json").write_text(json.dumps(limits))

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """score_bits_per_byte is of the text as the stage got it, whatever rules before this one changed; NaN of no text."""
        rows = slice(batch.first, batch.first + len(batch.texts))
        scores = np.load(folder / f"{batch.shard:05}.npy", mmap_mode="r")[rows].astype(np.float32)
        least, most = read_limits(folder / "limits.json")
        reasons = np.full(len(scores), None, dtype=object)
        reasons[scores < np.float32(least)] = "low_perplexity"
        reasons[scores > np.float32(most)] = "high_perplexity"
        reasons[np.isnan(scores)] = "no_text"
        return Judgement(reasons, scores={"bits_per_byte": scores})
