"""How a model of packed matrices lies in a safetensors file, and how it is read back."""

from typing import Any

from torch import Tensor

from lm.quantized.base import PackedMatrix
from lm.quantized.counts import Counts
from lm.quantized.palette import Palette
from lm.quantized.trits import Trits

# What a weight's tensors may be called behind its name; the first two are there in any case
PARTS = ("codes", "scales", "minima", "columns")


def pack_state(packed: dict[str, PackedMatrix], rest: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for a safetensors file, and the `quantization` section of config.json that goes with them.

    Raises ValueError when two weights would lie under one name.
    """
    tensors = dict(rest)
    for name, weight in packed.items():
        for key, tensor in weight.tensors(name).items():
            if key in tensors:
                raise ValueError(f"{key}: two weights of the model would have this name once it is packed")
            tensors[key] = tensor
    return tensors, {"weights": {name: weight.description() for name, weight in sorted(packed.items())}}


def packed_of(name: str, tensors: dict[str, Tensor], description: dict[str, Any]) -> PackedMatrix:
    """The weight of this name. Raises ValueError naming it when its tensors and its description do not fit."""
    parts = {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}
    try:
        if missing := [part for part in PARTS[:2] if part not in parts]:
            raise KeyError(f"{name}.{missing[0]}")
        kind = Trits if "planes" in description else Palette if "palette" in description else Counts
        return kind.of(name, parts, description)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name}: the packed weight is not whole: {type(error).__name__} {error}") from None


def unpack_state(tensors: dict[str, Tensor], description: dict[str, Any]) -> dict[str, Tensor]:
    """Every weight in float32 under its own name: the inverse of pack_state, up to what quantization lost.

    Raises ValueError naming the weight that is missing or does not fit its description.
    """
    weights = description.get("weights", {})
    state = {name: packed_of(name, tensors, weights[name]).dequantize() for name in weights}
    parts = {f"{name}.{part}" for name in weights for part in PARTS}
    return state | {name: tensor.float() for name, tensor in tensors.items() if name not in parts}
