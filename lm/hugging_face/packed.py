"""A quantized model as it is packed, in the format compressed-tensors (`pack-quantized`), which transformers loads.

The format is that of the library compressed-tensors, 0.20: of each matrix `weight_packed`, int32 words of a row's codes, the
low bits of each first, `weight_scale` and `weight_shape`; and which matrices are so in config.json's quantization_config.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lm.checkpoint import read_description
from lm.config import ConfigError
from lm.quantized.base import PackedMatrix
from lm.quantized.counts import Counts
from lm.quantized.state import packed_of

WORD = 4  # bytes
# A scheme as the library writes it itself, for weights alone
WEIGHTS = {
    "type": "int",
    "symmetric": True,
    "dynamic": False,
    "actorder": None,
    "observer": None,
    "observer_kwargs": {},
}
CONFIG = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "kv_cache_scheme": None, "global_compression_ratio": None,
}  # fmt: skip


def packed_in(folder: Path) -> dict[str, PackedMatrix]:
    """Packed matrices of a quantized model folder, by the names of their weights. Raises ConfigError where it has none, and for
    experts: transformers 5 holds those of a layer as one tensor, and does not read a folder with others packed beside."""
    description = read_description(folder)
    weights = description.get("quantization", {}).get("weights", {})
    if not weights:
        raise ConfigError(f"{folder}: is not quantized: export data/quantize packed, or this one as it is")
    if any(".experts." in name for name in weights):
        raise ConfigError(
            f"{folder}: has experts, which no reader has been seen to read packed: export it without packed"
        )
    tensors = load_file(folder / "model.safetensors")
    return {name: packed_of(name, tensors, weights[name]) for name in weights}


def exportable_matrices(packed: dict[str, PackedMatrix]) -> dict[str, Counts]:
    """Matrices that the format has, of those that are packed: of blocks, in steps either way of 0, of whole groups."""
    return {
        name: matrix
        for name, matrix in packed.items()
        if name.startswith("blocks.")
        and isinstance(matrix, Counts)
        and matrix.minima is None
        and matrix.columns is None
        and (matrix.scales.shape[1] == 1 or matrix.shape[1] % matrix.group == 0)
    }


def tensors_of(packed: Counts, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the file has of a matrix, by the part of the name behind the module's."""
    words = F.pad(packed.codes, (0, -packed.codes.shape[1] % WORD)).contiguous().view(torch.int32)
    shape = torch.tensor(packed.shape, dtype=torch.int64)
    return {"weight_packed": words, "weight_scale": packed.scales.to(dtype).contiguous(), "weight_shape": shape}


def quantization_config(packed: dict[str, Counts], others: list[str]) -> dict[str, Any]:
    """The section of config.json. packed: by the names of modules; others: names of the linear layers that are not."""
    schemes: dict[tuple[int, int], list[str]] = {}
    for module, matrix in packed.items():
        group = 0 if matrix.scales.shape[1] == 1 else matrix.group
        schemes.setdefault((matrix.bits, group), []).append(module)
    groups = {}
    for number, ((bits, group), modules) in enumerate(sorted(schemes.items())):
        grid = {"strategy": "group", "group_size": group} if group else {"strategy": "channel", "group_size": None}
        weights = {"num_bits": bits, **grid, **WEIGHTS}
        groups[f"group_{number}"] = {
            "targets": sorted(modules), "weights": weights, "input_activations": None, "output_activations": None,
            "format": "pack-quantized",
        }  # fmt: skip
    return {**CONFIG, "config_groups": groups, "ignore": sorted(others)}
