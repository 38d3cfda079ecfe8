"""Distillation in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two steps of a student of one layer."""
    section = params["distill"]
    texts = rows(section, 1) if section.get("corpus_sequences", 4) else 0
    return {
        "steps": 2,
        "batch": rows(section, 2),
        "corpus_sequences": texts,
        "student_layers": 1,
        "compile": "off",
    }
