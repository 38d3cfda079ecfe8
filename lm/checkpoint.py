"""A model on disk: model.safetensors, config.json and tokenizer.json in one folder.

config.json holds the contract of the tokenizer that the model was trained with, so that no other can take its place.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lm.config import ConfigError, mistakes
from lm.files import write_json
from lm.hugging_face.adapters import save_adapter
from lm.hugging_face.prompts import save_prompt
from lm.model import Decoder, ModelConfig
from lm.prompts.base import PromptState, SoftPrompt
from lm.quantized.inputs import Rounding, round_inputs_of
from lm.quantized.state import unpack_state
from lm.quantized.trained import TrainedIn, save_trained_in
from lm.shape import MASKED
from lm.tokenizer import Tokenizer


def save_model(folder: Path, model: Decoder, tokenizer: Tokenizer) -> None:
    """Write the model, and what is left of how it was trained: an adapter, a prompt, or the whole numbers of its matrices; the
    same weights give the same bytes."""
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()},
        folder / "model.safetensors",
    )
    write_json(folder / "config.json", description_of(model, tokenizer))
    tokenizer.save(folder)
    if isinstance(model.artifact, TrainedIn):
        save_trained_in(folder, model.artifact)
    elif isinstance(model.artifact, PromptState):
        save_prompt(folder, model.artifact, model.config)
    elif model.artifact:
        save_adapter(folder, model.artifact, model.config)


def description_of(model: Decoder, tokenizer: Tokenizer) -> dict[str, Any]:
    """What config.json says of a model: its shape, the contract of its tokenizer, and the sizes of a prompt that it carries."""
    carried = {} if model.prompt is None else {"soft_prompt": model.prompt.described()}
    return {"model": model.config.described(), "contract": asdict(tokenizer.contract), **carried}


def read_description(folder: Path) -> dict[str, Any]:
    """config.json. Raises ValueError naming the file when it is missing or not a model's."""
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; is {folder} a model folder, and has its stage run?") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if "model_type" in description:
        raise ValueError(f"{path}: a Hugging Face model: begin with it by checkpoint.folder and start hugging_face")
    if "model" not in description:
        raise ValueError(f"{path}: has no `model` section")
    return description


def load_model(folder: Path, masked: bool = False) -> tuple[Decoder, Tokenizer]:
    """The model, in fp32 and evaluation mode, and its tokenizer; a quantized model comes back dequantized,
    its matrices seeing rounded inputs, and its cache in whole numbers, where it was made so.

    masked: whether it may be one that is not causal, such as masked diffusion trains.
    Raises ValueError naming the file that is missing, torn or does not fit the others.
    """
    description = read_description(folder)
    if not (masked or description["model"].get("causal", True)):
        raise ConfigError(f"{folder}: {MASKED}")
    try:
        state = load_file(folder / "model.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{folder / 'model.safetensors'}: cannot be read: {error}") from None
    rounding, columns, cache = None, {}, None
    if "quantization" in description:
        if "cache" in description["quantization"]:
            cache = Rounding.of(description["quantization"]["cache"])
        if "inputs" in description["quantization"]:
            rounding = Rounding.of(description["quantization"]["inputs"])
            columns = {name.removesuffix(".columns"): t for name, t in state.items() if name.endswith(".columns")}
        state = unpack_state(state, description["quantization"])
    tokenizer = Tokenizer.load(folder)
    tokenizer.contract.check(description.get("contract"), f"{folder / 'config.json'}: contract")
    try:
        config = ModelConfig.model_validate(description["model"])
    except ValidationError as error:
        raise ValueError(f"{folder / 'config.json'}: model: {mistakes(error)}") from None
    if config.vocab_size < tokenizer.vocab_size:  # more is padding, as Qwen has it
        raise ValueError(
            f"{folder}: the model has {config.vocab_size} tokens, its tokenizer.json {tokenizer.vocab_size}"
        )
    model = Decoder(config)
    if "soft_prompt" in description:
        try:
            model.set_prompt(SoftPrompt.of(description["soft_prompt"], config.width))
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'}: {error}") from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / 'model.safetensors'}: does not fit config.json: {' '.join(str(error).split())}"
        ) from None
    if rounding:
        round_inputs_of(model, rounding, columns)
    model.cache_rounding = cache
    return model.eval(), tokenizer


def device() -> torch.device:
    """Where models run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
