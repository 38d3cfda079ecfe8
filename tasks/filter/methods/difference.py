"""Documents that a large model finds likelier than a small one: difference sampling, MiniPLM, Gu et al. 2024
(arXiv:2410.17215)."""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.core.tables import shard_paths
from tasks.filter.engine.file_cache import cached_by_file
from tasks.filter.engine.model_scores import Reader, bits_per_byte, excerpt_of, read_checkpoint, write_scores
from tasks.filter.engine.ranks import score_at
from tasks.filter.rule import Batch, Judgement, Setting

REFERENCE = "reference"  # the folder of the small model, within that of the large one


@cached_by_file
def read_least(path: Path) -> float:
    """The least difference that `prepare` wrote."""
    return float(json.loads(path.read_text())["least"])


def saved(large: Reader, small: Reader, text: str) -> float:
    """Bits a byte that the large model saves on the front of a text, as much of it as both read; NaN of no text."""
    fronts = [excerpt_of(tokenizer, text, model.config.context)[0] for model, tokenizer, _ in (large, small)]
    shorter = min(fronts, key=len)
    return bits_per_byte(*small, shorter) - bits_per_byte(*large, shorter)


class Difference(Config):
    """Keeps the `share` of documents with the largest log p(large) - log p(small), equation 3: what is easy for both and what
    is noise to both goes. The large model is that of checkpoint.folder, the small one the Hugging Face model in its folder
    `reference`, which is best trained on some of the same corpus.

    Differs from the paper: bits a byte of a document, as far as it is read by both, in the place of nats of a chunk of 1,024
    tokens, so that long documents and tokenizers compare."""

    name: Literal["difference"] = "difference"
    sources: list[str] | None = Field(None, description="judge the documents of these sources; all when absent")
    share: float = Field(0.5, gt=0, le=1, description="of the judged documents, which stay; the paper's is 0.5")

    def prepare(self, setting: Setting) -> None:
        """Score every document of the sources, a file a shard; those that are there already are not made again."""
        files = [setting.folder / f"{number:05}.npy" for number in range(len(shard_paths(setting.documents)))]
        if not all(file.exists() for file in files):
            large = read_checkpoint("filter.difference", setting.checkpoint)
            small = read_checkpoint("filter.difference", setting.checkpoint and setting.checkpoint / REFERENCE)
            write_scores(setting, files, self.sources, lambda text: saved(large, small, text))
        total = sum(int((~np.isnan(np.load(file))).sum()) for file in files)
        if not total:
            raise ConfigError("filter.difference: no document of its sources has any text")
        least = score_at(files, total - math.ceil(self.share * total) + 1)
        (setting.folder / "least.json").write_text(json.dumps({"least": least}))

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """score_difference (bits a byte) is of the text as the stage got it, whatever rules before this one changed; NaN of no
        text."""
        rows = slice(batch.first, batch.first + len(batch.texts))
        scores = np.load(folder / f"{batch.shard:05}.npy", mmap_mode="r")[rows].astype(np.float32)
        reasons = np.full(len(scores), None, dtype=object)
        reasons[scores < np.float32(read_least(folder / "least.json"))] = "low_difference"
        reasons[np.isnan(scores)] = "no_text"
        return Judgement(reasons, scores={"difference": scores})
