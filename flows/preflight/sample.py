"""Small inputs for the toy run: some documents of each source, and a narrow model with the checkpoint's tokenizer."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lm.hugging_face.config import from_theirs
from lm.hugging_face.load import read_json, their_name
from lm.model import Decoder
from tasks.core.held_out import HELD_OUT
from tasks.ingest.sources.base import Rejected
from tasks.ingest.stage import IngestConfig

# Documents of a source: from files at its front, middle and end, and no more of each text than this.
DOCUMENTS, FILES, CHARACTERS = 180, 3, 16_000


def sample_sources(config: IngestConfig, raw: Path) -> list[dict[str, Any]]:
    """The sources of the toy run. Those that make their documents up stay; of files the first rows, as the source itself reads
    them, stand in JSON lines under the same label."""
    raw.mkdir(parents=True)
    made = []
    for source in config.sources:
        if source.endless:
            made.append(source.model_dump())
            continue
        files = source.files(config.folder)
        chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
        name = f"{len(made)}.jsonl"
        with (raw / name).open("w") as lines:
            for file in chosen:
                lines.writelines(
                    json.dumps(row) + "\n" for row in first_rows(source, file, config.seed, DOCUMENTS // FILES)
                )
        made.append(
            {"name": "jsonl", "path": name, "label": source.called, "weight": source.weight, "licence": source.licence}
        )
    return made


def first_rows(source: Any, file: Any, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Up to so many documents, each with its id and what else is known of it."""
    for found in source.read(file, seed):
        if isinstance(found, Rejected):
            continue
        for row in found.to_pylist():
            if not isinstance(row["text"], str):
                continue
            own = {"id": str(row["id"])} if row["id"] is not None else {}
            meta = json.loads(row["meta"] or "{}")
            meta.pop(HELD_OUT, None)  # the first rows may all be of one side
            yield {**meta, **own, "text": row["text"][:CHARACTERS]}
            count -= 1
            if not count:
                return


def narrow_checkpoint(folder: Path, target: Path) -> None:
    """A model of the checkpoint's kind with two layers and two heads, random weights, and its files for text as they are."""
    target.mkdir(parents=True)
    for path in folder.glob("*.json"):
        shutil.copyfile(path, target / path.name)
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    if not (folder / "config.json").exists():
        return
    theirs = read_json(folder / "config.json")
    small = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "hidden_size": 16,
    }
    if "layer_types" in theirs:
        small["layer_types"] = theirs["layer_types"][:2]
    theirs |= {**small, "intermediate_size": 32}
    (target / "config.json").write_text(json.dumps(theirs))
    shape = from_theirs(theirs)
    weights = Decoder(shape).state_dict()
    save_file(
        {their_name(name, shape): weight.contiguous() for name, weight in weights.items()}, target / "model.safetensors"
    )
