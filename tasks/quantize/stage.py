"""Quantization: a model's matrices in few bits, in a model folder that every reader of models can open."""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lm import problems
from lm.calibration import Batch, Calibration, calibration_batches, collect_layer_inputs
from lm.checkpoint import description_of, device, read_description
from lm.config import Config, Seed, choice
from lm.files import write_json
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.model_folder import is_hugging_face, read_bare, weights_bytes
from lm.quantized.base import PackedMatrix
from lm.quantized.inputs import columns_of, round_inputs, sees_rounded
from lm.quantized.state import pack_state
from lm.quantized.trained import FILE, load_trained_in
from lm.training.data.plan import Plan
from tasks.core.config import StartModel
from tasks.core.log import Log
from tasks.core.tokens import check_tokens
from tasks.quantize import activations, methods, widths


class QuantizeConfig(Config):
    """Norms and biases stay float32: they are 0.1% of the weights and each touches everything."""

    model: StartModel
    method: choice(methods)
    embedding: choice(methods) = methods.Int8()
    width: choice(widths) = widths.Same()
    activation: choice(activations) = activations.Exact()
    cache: choice(activations) = activations.Exact()
    calibration: Calibration = Calibration()
    problems: choice(problems)
    seed: Seed

    def method_of(self, name: str) -> Any:
        """The embedding and the output head, often one matrix, feel few bits the most and have a method of their own; so have
        other tables, which are looked up, too."""
        tables = name in ("embedding.weight", "head.weight") or name.endswith(".table.weight")
        return self.embedding if tables else self.method

    @property
    def needs_calibration(self) -> bool:
        return any(part.needs_calibration for part in (self.method, self.embedding, self.width))


def depth_of(name: str) -> list[str]:
    """The block that a weight belongs to, or the weight's own name."""
    return name.split(".")[:2]


@torch.no_grad()
def quantize(
    model: Decoder,
    config: QuantizeConfig,
    bits: dict[str, int],
    trained: dict[str, PackedMatrix],
    batches: list[Batch],
    log: Log,
) -> dict[str, PackedMatrix]:
    """Every matrix of the model, packed as it was trained where it was in few bits, and else by its method, in the bits that
    are named for it. Later layers are packed for what the earlier ones have become: the model is left dequantized, with inputs
    that are rounded where the config says so. Raises ValueError naming the weight that cannot be."""
    rounding = config.activation.rounding()
    packed: dict[str, PackedMatrix] = {}
    roles = roles_of(model)
    weights = {name: weight for name, weight in model.named_parameters() if roles[name] != "vector"}
    method_of = {
        name: config.method_of(name).model_copy(update={"bits": bits[name]} if name in bits else {}) for name in weights
    }
    for _, group in groupby(weights, depth_of):
        names = list(group)
        # a table is looked up, not multiplied: it has no inputs to calibrate with
        wanting = [n for n in names if method_of[n].needs_calibration and roles[n] != "table" and n not in trained]
        inputs = collect_layer_inputs(model, wanting, batches) if batches and wanting else {}
        for name in names:
            try:
                packed[name] = trained.get(name) or method_of[name](weights[name], inputs.get(name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            weights[name].copy_(packed[name].dequantize())
            layer = name.removesuffix(".weight")
            if rounding and sees_rounded(layer, model.get_submodule(layer)):
                round_inputs(model.get_submodule(layer), rounding, columns_of(packed[name]))
            log.progress(len(packed), len(weights), "matrix")
    return packed


def trained_in(model: Decoder, source: Path) -> dict[str, PackedMatrix]:
    """Matrices that the model was trained in few bits with, by the names of their weights. Raises ValueError naming the file
    and the weight where they are not the model's to the bit."""
    found, state = load_trained_in(source), model.state_dict()
    for name, packed in found.items():
        if name not in state or not torch.equal(packed.dequantize(), state[name].cpu()):
            raise ValueError(
                f"{source / FILE}: {name}: is not the weight in model.safetensors: remove the file to pack it anew"
            )
    return found


def relative_squared_error(state: dict[str, Tensor], packed: dict[str, PackedMatrix]) -> float:
    """Sum of (weight - what it became)^2 over the sum of weight^2, all packed matrices together; 0 when all are 0."""
    lost = total = 0.0
    for name, weight in packed.items():
        exact = state[name].double()
        # row sums, then fsum: the same digits for any number of threads
        lost += math.fsum((weight.dequantize().double() - exact).square().sum(1).tolist())
        total += math.fsum(exact.square().sum(1).tolist())
    return lost / total if total else 0.0


def run(config: QuantizeConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/quantize. Sizes are of the files of weights alone; bits_per_weight counts all that is stored."""
    source, target = data / config.model, data / "quantize"
    if not is_hugging_face(source) and "quantization" in read_description(source):
        raise ValueError(f"{source / 'config.json'}: the model is quantized already; quantize needs its float32 source")
    model, tokenizer = read_bare(source)
    model.cache_rounding = config.cache.rounding()
    model.new_cache(1, 1)  # a layer that keeps no keys and values is refused before anything is made
    trained = trained_in(model, source)
    model.to(device())
    state = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    batches: list[Batch] = []
    if config.needs_calibration:
        if config.calibration.sequences:
            check_tokens(f"quantize.model: {config.model}", tokenizer, data / "tokenize")
        plan = Plan(data / "curriculum", data / "tokenize")
        prompts = [example.prompt for example in config.problems.examples("sft")]
        batches = calibration_batches(
            model, tokenizer, prompts, plan, config.calibration, config.seed, "quantize.calibration"
        )
    bits = config.width.choose_bits(model, config.method, batches, log.progress, trained)
    try:
        packed = quantize(model, config, bits, trained, batches, log)
    except ValueError as error:
        raise ValueError(f"{source / 'model.safetensors'}: {error}") from None
    tensors, quantization = pack_state(packed, {name: weight for name, weight in state.items() if name not in packed})
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, target / "model.safetensors")
    if rounding := config.activation.rounding():
        quantization["inputs"] = rounding._asdict()
    if model.cache_rounding:
        quantization["cache"] = model.cache_rounding._asdict()
    described = {**description_of(model, tokenizer), "quantization": quantization}
    write_json(target / "config.json", described)
    tokenizer.save(target)
    size, source_size = weights_bytes(target), weights_bytes(source)
    parameters = sum(weight.numel() for weight in state.values())
    return {
        "size_bytes": size,
        "source_size_bytes": source_size,
        "ratio": source_size / size,
        "bits_per_weight": 8 * sum(tensor.nbytes for tensor in tensors.values()) / parameters,
        "relative_squared_error": relative_squared_error(state, packed),
        "entropy_bytes": sum(weight.entropy_bytes for weight in packed.values())
        + sum(weight.nbytes for name, weight in tensors.items() if name in state),
        "matrices_as_trained": len(trained),
        "parameters": parameters,
        "calibration_tokens": sum(int(mask.sum()) for _, mask in batches),
    }
