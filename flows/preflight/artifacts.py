"""Edge contracts of what stages have written: token ids, their dtype, EOS, special tokens, chat template, vocabulary, context.

The same for the toy run's folders and for those of earlier runs that a target takes up.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lm.checkpoint import read_description
from lm.tokenizer import SPECIALS, Contract, Tokenizer
from lm.training.data.plan import Plan
from tasks.about.finding import Finding, one_line
from tasks.core.tables import read_table
from tasks.runner.folders import output_path
from tasks.runner.graph import Entry, upstream

# Of a corpus so many documents are looked at, evenly spaced.
LOOKED_AT = 1000
AGAIN = "make it anew: make pipeline FORCE=1 TARGETS={}"


def check_artifacts(data: Path, graph: dict[str, Entry], addresses: list[str]) -> list[Finding]:
    """What is wrong with the outputs of these stages, and between a model and those it was made of."""
    found, edges = list[Finding](), upstream(graph)
    for address in addresses:
        folder = output_path(graph[address])
        found += check_artifact(data, str(folder))
        models = [
            output_path(graph[other])
            for other in edges[address]
            if (data / output_path(graph[other]) / "config.json").exists()
        ]
        if (data / folder / "config.json").exists():
            found += [finding for model in models for finding in check_taught(data, str(model), str(folder))]
    return found


def check_artifact(data: Path, stage: str) -> list[Finding]:
    """What is wrong with the folder of a stage, by what it holds: a corpus, a plan, a model, or none of these."""
    folder = data / stage
    if not folder.exists():
        return [Finding(str(folder), "is not there, though its stage is up to date", f"`dvc checkout {folder}`")]
    found: list[Finding] = []
    checks = [
        (folder / "tokens.npy", lambda: check_corpus(folder)),
        (folder / "plan.parquet", lambda: check_plan(data, folder)),
        (folder / "config.json", lambda: check_model(data, folder)),
    ]
    for marker, check in checks:
        if marker.exists():
            try:
                found += check()
            except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
                found.append(Finding(str(folder), one_line(error), AGAIN.format(stage)))
    return found


def corpus_of(data: Path) -> Path | None:
    """The folder that holds the tokens; None before there is one."""
    return next((path.parent for path in sorted(data.glob("*/tokens.npy"))), None)


def contract_of(folder: Path) -> Contract:
    """contract.json as it was written. Raises ValueError where it is no contract."""
    path = folder / "contract.json"
    try:
        return Contract(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not the contract of a corpus: {error}") from None


def check_corpus(folder: Path) -> Iterator[Finding]:
    """tokenizer.json is the one of the contract; tokens are of its ids, in a dtype that holds them; documents end with EOS."""
    again = AGAIN.format(folder.name)
    contract = contract_of(folder)
    try:
        Tokenizer.load(folder)
    except ValueError as error:
        yield Finding(str(folder / "tokenizer.json"), one_line(error), again)
    ids = [contract.specials.get(name) for name in SPECIALS]
    if None in ids or len(contract.specials) != len(SPECIALS):
        yield Finding(
            str(folder / "contract.json"),
            f"its special tokens are {' '.join(contract.specials)}, not {' '.join(SPECIALS)}",
            again,
        )
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    if tokens.dtype.kind != "u" or np.iinfo(tokens.dtype).max < contract.vocab_size - 1:
        yield Finding(
            str(folder / "tokens.npy"), f"{tokens.dtype} cannot hold ids up to {contract.vocab_size - 1}", again
        )
        return
    table = read_table(folder / "documents.parquet", ["start", "length"])
    start, length = (column.to_numpy() for column in table.columns)
    if len(start) and int((start + length).max()) > len(tokens):
        yield Finding(
            str(folder / "tokens.npy"),
            f"has {len(tokens)} tokens, documents.parquet {int((start + length).max())}",
            again,
        )
        return
    eos = contract.specials.get(SPECIALS[0])
    for row in np.unique(np.linspace(0, len(start) - 1, min(LOOKED_AT, len(start))).astype(int)):
        ids = tokens[start[row] : start[row] + length[row]]
        if not len(ids) or ids[-1] != eos:
            last = f"ends with token {ids[-1]}" if len(ids) else "is empty"
            yield Finding(str(folder / "tokens.npy"), f"document {row} {last}, not with EOS, {eos}", again)
            return
        if int(ids.max()) >= contract.vocab_size:
            yield Finding(
                str(folder / "tokens.npy"), f"document {row} has token {ids.max()}, of {contract.vocab_size}", again
            )
            return


def check_plan(data: Path, folder: Path) -> Iterator[Finding]:
    """The plan fits the corpus: every range inside its document."""
    corpus = corpus_of(data)
    if corpus:
        Plan(folder, corpus)
    return iter(())


def check_model(data: Path, folder: Path) -> Iterator[Finding]:
    """The model's contract is the corpus's, its tokenizer.json too; it has a row for every token and the plan's context."""
    description, again = read_description(folder), AGAIN.format(folder.name)
    config, corpus = folder / "config.json", corpus_of(data)
    if corpus:
        try:
            contract_of(corpus).check(description.get("contract"), str(config))
        except ValueError as error:
            yield Finding(
                str(config), f"another tokenizer than {corpus}'s: {one_line(error).partition('with it: ')[2]}", again
            )
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer.contract.check(description.get("contract"), str(config))
    except ValueError as error:
        yield Finding(str(folder / "tokenizer.json"), one_line(error), again)
        return
    shape = description["model"]
    if shape["vocab_size"] < tokenizer.vocab_size:
        yield Finding(
            str(config), f"vocab_size {shape['vocab_size']} is less than the tokenizer's {tokenizer.vocab_size}", again
        )
    if not (folder / "model.safetensors").exists():
        yield Finding(str(folder / "model.safetensors"), "no such file", again)
    for plan in sorted(data.glob("*/plan.parquet")):
        longest = Plan(plan.parent, corpus).longest - 1 if corpus else 0
        if longest > shape["context"]:
            yield Finding(
                str(config), f"context {shape['context']} is shorter than {plan}'s sequences of {longest}", again
            )


def check_taught(data: Path, teacher: str, learner: str) -> Iterator[Finding]:
    """A model and the one it was made of, or learned from, have one vocabulary."""
    try:
        sizes = {name: read_description(data / name)["model"]["vocab_size"] for name in (teacher, learner)}
    except (ValueError, KeyError) as error:
        yield Finding(str(data / learner), one_line(error), AGAIN.format(learner))
        return
    if sizes[teacher] != sizes[learner]:
        what = f"vocab_size {sizes[learner]} is not that of {teacher}, {sizes[teacher]}"
        yield Finding(str(data / learner / "config.json"), what, AGAIN.format(learner))
