"""A model with an adapter of the library peft merged into it: `make merge MODEL=data/pretrain ADAPTER=folder TO=merged`.

The model is a folder of this project or of Hugging Face, whatever the architecture is; what is written is one of the same kind.
"""

import shutil
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lm.checkpoint import read_description
from lm.config import mistakes
from lm.hugging_face.adapters import Delta, read_adapter
from lm.hugging_face.load import files_of, their_name
from lm.hugging_face.provenance import FILE as MADE_OF
from lm.model import ModelConfig
from lm.model_folder import is_hugging_face

# What of a model's folder is weights, in one format or another; the rest goes along.
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


def merge(model: Path, adapter: Path, target: Path) -> int:
    """Write the model's folder to another one, with the adapter in its weights. Returns the number of matrices that it changed.

    One file of weights at a time is in memory. Raises ValueError in one line, with nothing written, for folders that are no
    model or no adapter, for an adapter of another model, and for a target that has files.
    """
    deltas = read_adapter(adapter)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is there, and not empty: name another folder")
    shapes = shapes_of(model)
    named = {**{name: name for name in shapes}, **their_names(model, shapes)}
    found = {}
    for layer, delta in deltas.items():
        name = named.get(f"{layer}.weight")
        if name is None:
            raise ValueError(f"{adapter}: {model} has no layer {layer}: it is an adapter of another model")
        fitted = delta.of(shapes[name][-1])
        if shapes[name] != fitted.shape:
            raise ValueError(f"{adapter}: {layer} is {fitted.shape} there and {shapes[name]} in {model}")
        found[name] = fitted
    write(model, found, target)
    return len(found)


def write(model: Path, deltas: dict[str, Delta], target: Path) -> None:
    """Write a model's folder with these matrices changed."""
    target.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        kept = path.suffix not in WEIGHTS and not path.name.startswith("adapter_") and path.name != MADE_OF
        if path.is_file() and kept:
            shutil.copyfile(path, target / path.name)
    for file in files_of(model):
        tensors = load_file(model / file)
        with safe_open(model / file, "pt") as opened:
            metadata = opened.metadata()
        merged = {name: deltas[name].merged(weight) if name in deltas else weight for name, weight in tensors.items()}
        save_file(merged, target / file, metadata)


def shapes_of(model: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model. Raises ValueError naming the file that cannot be read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files_of(model):
        try:
            with safe_open(model / file, "pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{model / file}: cannot be read: {error}") from None
    return shapes


def their_names(model: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Our name of each tensor by Hugging Face's, for a folder of ours and of what has a name there; none for one of theirs.
    Raises ValueError for a model in few bits, to which nothing can be added."""
    if is_hugging_face(model):
        return {}
    description = read_description(model)
    if "quantization" in description:
        raise ValueError(f"{model}: is quantized: merge into the model that it was made of")
    try:
        config = ModelConfig.model_validate(description["model"])
    except ValidationError as error:
        raise ValueError(f"{model / 'config.json'}: model: {mistakes(error)}") from None
    found = {}
    for name in shapes:
        try:
            found[their_name(name, config)] = name
        except ValueError:  # the adapter has our own name
            continue
    return found
