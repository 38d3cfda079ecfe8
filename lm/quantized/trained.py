"""Matrices that a model was trained in few bits with, beside its weights: those that it is packed as."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lm.quantized.base import PackedMatrix
from lm.quantized.state import pack_state, packed_of

FILE = "trained_in.safetensors"


@dataclass(frozen=True)
class TrainedIn:
    """layers: of each layer, by its name, the whole numbers that its product was made with at the end."""

    layers: dict[str, PackedMatrix]


def save_trained_in(folder: Path, trained: TrainedIn) -> None:
    """Write the file; the same matrices give the same bytes."""
    tensors, description = pack_state({f"{name}.weight": packed for name, packed in trained.layers.items()}, {})
    here = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(here, folder / FILE, {"quantization": json.dumps(description, sort_keys=True)})


def load_trained_in(folder: Path) -> dict[str, PackedMatrix]:
    """Packed matrices by the names of their weights; none where a model was not trained so. Raises ValueError naming the file
    where it is torn or does not fit itself."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            weights = json.loads((file.metadata() or {})["quantization"])["weights"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: packed_of(name, tensors, weights[name]) for name in weights}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
