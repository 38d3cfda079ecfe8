"""Quantization: the student's matrices in few bits, in a model folder that every reader of models can open."""

import json
import math
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.config import Config, choice
from lm.quantized import Packed, pack_state
from tasks.core.log import Log
from tasks.core.stage import main
from tasks.quantize import methods


class QuantizeConfig(Config):
    """Norms and biases stay float32: they are 0.1% of the weights and each touches everything."""

    method: choice(methods)
    embedding: choice(methods) = methods.Int8()


def is_embedding(name: str) -> bool:
    """Whether a weight is the embedding or the output head, which are often one matrix and feel few bits the most."""
    return any(part == "embedding" or part == "head" for part in name.split("."))


def quantize(state: dict[str, Tensor], config: QuantizeConfig, log: Log) -> dict[str, Packed]:
    """Every matrix of a model, packed by its method. Raises ValueError naming the weight that cannot be."""
    packed: dict[str, Packed] = {}
    matrices = sorted(name for name, weight in state.items() if weight.ndim == 2)
    for done, name in enumerate(matrices):
        method = config.embedding if is_embedding(name) else config.method
        try:
            packed[name] = method(state[name], None)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        log.progress(done + 1, len(matrices), "matrix")
    return packed


def relative_squared_error(state: dict[str, Tensor], packed: dict[str, Packed]) -> float:
    """Sum of (weight - what it became)^2 over the sum of weight^2, all packed matrices together; 0 when all are 0."""
    lost = total = 0.0
    for name, weight in packed.items():
        exact = state[name].double()
        # row sums, then fsum: the same digits for any number of threads
        lost += math.fsum((weight.dequantize().double() - exact).square().sum(1).tolist())
        total += math.fsum(exact.square().sum(1).tolist())
    return lost / total if total else 0.0


def run(config: QuantizeConfig, data: Path, log: Log) -> dict[str, float]:
    """data/distill -> data/quantize. Sizes are of model.safetensors alone; bits_per_weight counts all that is stored."""
    source, target = data / "distill", data / "quantize"
    try:
        state = load_file(source / "model.safetensors")
        description = json.loads((source / "config.json").read_text())
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{source}: not a model folder that can be read: {error}") from None
    if "quantization" in description:
        raise ValueError(f"{source / 'config.json'}: the model is quantized already; quantize needs its float32 source")
    try:
        packed = quantize(state, config, log)
    except ValueError as error:
        raise ValueError(f"{source / 'model.safetensors'}: {error}") from None
    tensors, quantization = pack_state(packed, {name: weight for name, weight in state.items() if name not in packed})
    save_file(tensors, target / "model.safetensors")
    described = {**description, "quantization": quantization}
    (target / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    size, source_size = ((folder / "model.safetensors").stat().st_size for folder in (target, source))
    parameters = sum(weight.numel() for weight in state.values())
    return {
        "size_bytes": size,
        "source_size_bytes": source_size,
        "ratio": source_size / size,
        "bits_per_weight": 8 * sum(tensor.nbytes for tensor in tensors.values()) / parameters,
        "relative_squared_error": relative_squared_error(state, packed),
        "parameters": parameters,
    }


if __name__ == "__main__":
    main("quantize", QuantizeConfig, run)
