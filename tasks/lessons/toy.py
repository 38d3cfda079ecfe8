"""Storing targets in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params


def toy(params: Params, folder: Path) -> Params:
    """Two steps of two problems and a text."""
    texts = min(1, params["lessons"].get("corpus_sequences", 4))
    return {"steps": 2, "batch": 2, "corpus_sequences": texts, "top_k": 4}
