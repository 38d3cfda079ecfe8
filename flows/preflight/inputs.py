"""Inputs from outside the graph: the sources of text, and the model that `checkpoint.folder` holds where one is used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from flows.preflight.finding import Finding
from lm.hugging_face.load import OUTER, config_of, files_of, read_json, their_name
from lm.model import Decoder, ModelConfig
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.core.config import ConfigError, load
from tasks.ingest.sources.base import Rejected
from tasks.ingest.stage import IngestConfig, check_python
from tasks.report.words import counted

# Rows that may be unusable at the front of a source before it is said to have none.
ROWS_TRIED = 1000


def check_sources(params: dict[str, Any]) -> list[Finding]:
    """Each source lists its files, and one of the first rows of the first is a document."""
    config = load("ingest", IngestConfig, params)
    check_python(config)
    return [finding for source in config.sources if not source.endless for finding in trouble_of(source, config.folder)]


def trouble_of(source: Any, folder: str) -> Iterator[Finding]:
    """Why the source cannot be used; nothing where it can."""
    where = f"params.yaml: ingest.sources: {source.called}"
    try:
        file = source.files(folder)[0]
        rejected = 0
        for found in source.read(file, 0):
            if not isinstance(found, Rejected) and found.num_rows:
                return
            rejected += 1
            reason = found.reason if isinstance(found, Rejected) else "empty"
            if rejected == ROWS_TRIED:
                break
    except ConfigError as error:
        yield Finding(where, str(error).partition(": ")[2].removeprefix(f"{source.called}: "))
        return
    except OSError as error:
        yield Finding(
            f"{where}: {error.filename or folder}", f"cannot be read: {error.strerror or error}", "make it readable"
        )
        return
    why = f" ({reason})" if rejected else ""
    yield Finding(
        f"{where}: {file.name}",
        f"not one usable row among the first {rejected}{why}",
        "mend the file, or the source's fields",
    )


def uses_of_checkpoint(params: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a method reads the model in checkpoint.folder, and whether one reads its tokenizer."""
    filters, semantic = params.get("filter", {}), params.get("dedup", {}).get("semantic", {})
    reads_model = (
        params["pretrain"]["start"]["name"] == "hugging_face"
        or any(rule.get("name") == "perplexity" for rule in filters.values())
        or semantic.get("embedding", {}).get("name") == "checkpoint"
    )
    return reads_model, reads_model or params["tokenize"]["method"]["name"] == "hugging_face"


def check_checkpoint(params: dict[str, Any]) -> Iterator[Finding]:
    """Where a method reads it: config.json describes a decoder of ours, the weights' names and shapes are its, and
    tokenizer.json is one, no larger than the model's vocabulary. Of the weights the headers are read."""
    reads_model, reads_tokenizer = uses_of_checkpoint(params)
    folder, tokens = Path(params["checkpoint"]["folder"]), None
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


def wrong_weights(folder: Path, shape: ModelConfig) -> Iterator[Finding]:
    """Weights that are missing, or of another shape than config.json says."""
    try:
        there: dict[str, tuple[int, ...]] = {}
        for name in files_of(folder):
            with safe_open(folder / name, "pt") as weights:
                there |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        yield Finding(str(folder), f"its weights cannot be read: {error}", "copy the model there again")
        return
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
            f"{counted(len(wrong), 'weight')} {'does' if len(wrong) == 1 else 'do'} not fit config.json: {wrong[0]}",
            "copy the model there again",
        )
