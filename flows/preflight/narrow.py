"""A narrow model for the toy run, with the checkpoint's tokenizer."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from lm.hugging_face.config import from_theirs
from lm.hugging_face.load import read_json, their_name
from lm.model import Decoder


def narrow_checkpoint(folder: Path, target: Path) -> None:
    """A model of the checkpoint's kind with two layers and two heads, random weights, and its files for text as they are; of
    each model in a folder of it the same."""
    target.mkdir(parents=True)
    for path in sorted(folder.glob("*/config.json")):
        narrow_checkpoint(path.parent, target / path.parent.name)
    for path in [*folder.glob("*.json"), *folder.glob("*.jinja")]:  # a chat template may have a file of its own
        shutil.copyfile(path, target / path.name)
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    if not (folder / "config.json").exists():
        return
    theirs = read_json(folder / "config.json")
    if "model_type" not in theirs and "model" in theirs:  # of ours, from which no stage of the toy run begins
        return
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
