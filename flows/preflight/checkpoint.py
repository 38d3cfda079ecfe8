"""The model that `checkpoint.folder` holds, where one is used: Hugging Face's, or, where a larger one begins as it, of ours."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lm.hugging_face.load import OUTER, config_of, files_of, read_json, their_name
from lm.model import Decoder, ModelConfig
from lm.model_folder import is_hugging_face, read_bare
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.about.finding import Finding
from tasks.core.config import CHECKPOINT
from tasks.report.words import pluralize
from tasks.runner.graph import Entry
from tasks.runner.rooms import part_of


def uses_of_checkpoint(params: dict[str, Any], stages: Iterable[Entry]) -> tuple[bool, bool]:
    """Whether one of these stages reads the model in checkpoint.folder, and whether one reads its tokenizer."""
    read = _uses(params, stages)
    return bool(read & {"model", "either"}), bool(read)


def _uses(params: dict[str, Any], stages: Iterable[Entry]) -> set[str]:
    """What these stages read of it, as their files checkpoint.py say it."""
    return {_reads(params.get(stage.name), stage) for stage in stages} - {""}


def _reads(section: Any, stage: Entry) -> str:
    if not isinstance(section, dict):
        return ""
    if CHECKPOINT in (section.get("model"), stage.item):
        return "model"
    room = part_of(stage.name, "checkpoint")
    return room.reads(section) if room else ""


def check_checkpoint(params: dict[str, Any], stages: Iterable[Entry]) -> Iterator[Finding]:
    """Where one of these stages reads it: config.json describes a decoder of ours, the weights' names and shapes are its, and
    tokenizer.json is one, no larger than the model's vocabulary. Of the weights the headers are read."""
    read = _uses(params, stages)
    reads_model, reads_tokenizer = bool(read & {"model", "either"}), bool(read)
    folder, tokens = Path(params["checkpoint"]["folder"]), None
    if reads_model and "model" not in read and is_ours(folder):
        yield from wrong_in_ours(folder)
        return
    if reads_tokenizer:
        try:
            tokens = Tokenizer.adopt(folder).vocab_size
        except ValueError as error:
            yield Finding("params.yaml: checkpoint.folder", str(error), "copy the model's tokenizer.json there")
    if not reads_model:
        return
    try:
        shape = config_of(folder)
    except ValueError as error:
        if tokens is not None or (folder / "config.json").exists():  # else it has been said
            yield Finding("params.yaml: checkpoint.folder", str(error), "name the folder of such a model")
        return
    described = read_json(folder / "config.json")
    if tokens and tokens - len(SPECIALS) > shape.vocab_size:
        what = f"has {tokens} tokens, config.json {shape.vocab_size}: it is another model's"
        yield Finding(str(folder / "tokenizer.json"), what, "copy the model's own tokenizer.json there")
    ends = described.get("eos_token_id")
    if tokens and any(end >= tokens for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)):
        what = f"eos_token_id {ends} is no token of tokenizer.json, which has {tokens}"
        yield Finding(str(folder / "config.json"), what, "copy the files of one model there")
    yield from wrong_weights(folder, shape)


def is_ours(folder: Path) -> bool:
    """True if config.json is there and in our format, or another than Hugging Face's."""
    return (folder / "config.json").exists() and not is_hugging_face(folder)


def wrong_in_ours(folder: Path) -> Iterator[Finding]:
    """What keeps a model of our format from being read, or a larger one from beginning as it: its weights, all of them, are
    read."""
    try:
        read_bare(folder)
    except ValueError as error:
        yield Finding("params.yaml: checkpoint.folder", str(error), "copy the folder of such a model there")


def wrong_weights(folder: Path, shape: ModelConfig) -> Iterator[Finding]:
    """Weights that are missing, no floating-point numbers, or of another shape than config.json says."""
    try:
        there: dict[str, tuple[int, ...]] = {}
        kinds: dict[str, str] = {}
        for name in files_of(folder):
            with safe_open(folder / name, "pt") as weights:
                parts = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118
                there |= {key: tuple(part.get_shape()) for key, part in parts.items()}
                kinds |= {key: part.get_dtype() for key, part in parts.items()}
    except (OSError, SafetensorError, ValueError) as error:
        yield Finding(str(folder), f"its weights cannot be read: {error}", "copy the model there again")
        return
    if others := [name for name, kind in kinds.items() if "F" not in kind]:  # F32, BF16, and not I8 or BOOL
        what = f"{others[0]} is {kinds[others[0]]}, and weights are floating-point numbers"
        yield Finding(str(folder), what, "copy the model there unquantized")
    if shape.tied and OUTER["embedding.weight"] not in there:  # one of both is enough
        there[OUTER["embedding.weight"]] = there.pop(OUTER["head.weight"], ())
    with torch.device("meta"):
        wanted = {their_name(name, shape): tuple(weight.shape) for name, weight in Decoder(shape).state_dict().items()}
    wrong = [
        f"{name} is {there.get(name, 'missing')}, not {size}"
        for name, size in wanted.items()
        if there.get(name) != size
    ]
    if wrong:
        yield Finding(
            str(folder),
            f"{pluralize(len(wrong), 'weight')} {'does' if len(wrong) == 1 else 'do'} not fit config.json: {wrong[0]}",
            "copy the model there again",
        )
