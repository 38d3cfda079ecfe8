"""Embeddings by a language model: the mean of its last hidden states over the first tokens of a document.

D4 takes the state of the last token of a pretrained OPT; the mean says more of a text whose end was cut off.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config, ConfigError
from tasks.core.log import Log
from tasks.dedup.documents import Documents


class HiddenStates(Config):
    name: Literal["checkpoint"] = "checkpoint"
    folder: str = Field(
        "data/checkpoint", description="a Hugging Face model: config.json, model.safetensors, tokenizer.json"
    )
    tokens: int = Field(512, gt=0, description="of each document from its start, and no more than the model's context")

    def __call__(self, documents: Documents, folder: Path, log: Log) -> np.ndarray:
        """N x D float32 of the documents that are left, on disk: unit rows, and zeros for a text without tokens.

        One document at a time in this process: how documents are batched would change the last bits. The number of threads
        does so too; it is fixed for a machine. Raises ConfigError for a folder that holds no such model.
        """
        import torch

        from lm.checkpoint import device
        from lm.hugging_face.load import load_hf, resize_token_embeddings
        from lm.tokenizer import Tokenizer

        try:
            tokenizer = Tokenizer.adopt(Path(self.folder))
            model = resize_token_embeddings(load_hf(Path(self.folder)), tokenizer.vocab_size).to(device())
        except (ValueError, OSError) as error:
            raise ConfigError(f"dedup.semantic.embedding.folder: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        size, length, row = int(documents.alive.sum()), min(self.tokens, model.config.context), 0
        shape = (size, model.config.width)
        points_ND = np.lib.format.open_memmap(folder / "points.npy", mode="w+", dtype=np.float32, shape=shape)
        with torch.inference_mode():
            for _, batch in documents.batches(["text"]):
                for text in batch.column("text").to_pylist():
                    ids = tokenizer.encode(text)[:length]
                    if ids:
                        mean_D = model.hidden(torch.tensor([ids], device=device()))[0].mean(0)
                        points_ND[row] = torch.nn.functional.normalize(mean_D, dim=0).cpu().numpy()
                    row += 1
                log.progress(row, size, "document")
        return points_ND
