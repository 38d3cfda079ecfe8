"""Evaluation of one model: bits per byte on held-out documents, accuracy on unseen problems, size on disk."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from lm import problems, strategies
from lm.checkpoint import device
from lm.config import Config, ConfigError, choice
from lm.model_folder import read_model, weights_bytes
from lm.shape import MASKED
from lm.temperature import Divisor
from lm.tokenizer import Tokenizer
from tasks.core.log import Log
from tasks.core.tables import read_table, write_table
from tasks.core.tokens import check_tokens
from tasks.evaluate import tasks
from tasks.evaluate.accuracy import answer_all
from tasks.evaluate.bits_per_byte import document_bits, gzip_bits, per_byte
from tasks.evaluate.bound import AT_MOST, bound_bits, rename_as_bounds, token_by_token
from tasks.evaluate.contamination import (
    CLEAN,
    CONTAMINATED,
    OVERLAP,
    ContaminationTarget,
    split_by_contamination,
    training_texts,
)
from tasks.evaluate.coverage import coverage, sampled_scores
from tasks.evaluate.decoding import ANSWERS, CURVE, curve_metrics, decode_all, point_of
from tasks.evaluate.distributions import FILE, Distributions, sample_positions
from tasks.evaluate.likelihood import log_likelihoods
from tasks.evaluate.sets import ProblemSet, counts_of, set_metrics, shares_of, table_of, write_answers
from tasks.evaluate.tasks.base import accuracy_metrics, rows_of_items

AnyTask: Any = choice(tasks)  # named before a field of the same name hides the module


class EvaluateConfig(Config):
    problems_counted: int = Field(
        2000, gt=0, description="problems of the test split to answer; fewer where it has fewer"
    )
    max_new_tokens: int = Field(32, gt=0)
    samples: int = Field(
        0, ge=0, description="answers sampled to each problem, for pass@N beside the greedy one; 0: none"
    )
    temperature: Divisor = Field(1.0, description="of those answers")
    tasks: list[AnyTask] = Field([], description="what is asked beside the problem set, answered by likelihood")
    decoding: list[choice(strategies)] = Field(
        [],
        description="ways to find answers to the problems, each with its accuracy and what it spends beside the greedy ones",
    )
    max_overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of a problem or document that may stand in training, more is scored apart; absent: nobody looks",
    )
    divergence_places: int = Field(
        512,
        ge=0,
        description="tokens of held-out text of which the model's whole distribution is kept, for its divergence from the "
        "model that it was made of; fewer where that is more than 16 MiB; 0: none",
    )
    bound_draws: int = Field(
        32, gt=0, description="masks of each window by which bits are estimated, of a model of masked diffusion"
    )
    sets: list[ProblemSet] = Field([], description="further problem sets, each with a score of its own")
    problems: choice(problems)

    @model_validator(mode="after")
    def _labelled(self) -> "EvaluateConfig":
        labels = [task.label for task in self.tasks]
        for one in self.sets:
            one.check(self.problems.folder)
        sets = [one.called for one in self.sets]
        tables = ("answers", "bits", f"{AT_MOST}bits", FILE.removesuffix(".parquet"))
        taken = ("", *tables, ANSWERS, CURVE, OVERLAP, *map(table_of, sets))
        if wrong := [label for label in labels if label in taken]:
            raise ValueError(f"a task cannot be called {wrong[0]!r}: give its file another name, of letters and digits")
        if again := [label for place, label in enumerate(labels) if label in labels[:place]]:
            raise ValueError(f"two tasks would have the figures {again[0]}_accuracy: name their files apart")
        labels += sets
        if wrong := [label for label in labels if label.endswith((CLEAN, CONTAMINATED))]:
            raise ValueError(f"a set or task cannot be called {wrong[0]!r}, as scores of a part are: name it otherwise")
        if again := [label for place, label in enumerate(labels) if label in labels[:place]]:
            raise ValueError(f"sets: {again[0]}_accuracy would be of two sets or tasks: give a set another `label`")
        for strategy in self.decoding:
            strategy.check(self.max_new_tokens)
        called = [strategy.metric_label for strategy in self.decoding]
        if again := [name for place, name in enumerate(called) if name in called[:place]]:
            raise ValueError(f"decoding: two strategies are called {again[0]}: give one another `label`")
        if both := {f"{CURVE}_{name}" for name in called} & set(labels):
            raise ValueError(f"a task cannot be called {min(both)!r}, which a strategy is: give its file another name")
        return self


class HeldOut(NamedTuple):
    """A held-out document; the ids begin with the token that ended the one before."""

    id: str
    source: str
    group: str
    text: str
    ids: torch.Tensor


def held_out(folder: Path, tokenizer: Tokenizer) -> list[HeldOut]:
    """The documents that tokenize left to measure, in their order."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    places = {
        row["id"]: row for row in read_table(folder / "documents.parquet").to_pylist() if row["split"] == "held_out"
    }
    documents = []
    for row in read_table(folder / "held_out.parquet").to_pylist():
        start, length = places[row["id"]]["start"], places[row["id"]]["length"]
        ids = np.concatenate(([tokenizer.eos_id], tokens[start : start + length])).astype(np.int64)
        documents.append(HeldOut(row["id"], row["source"], row["group"], row["text"], torch.from_numpy(ids)))
    return documents


def run(config: EvaluateConfig, data: Path, log: Log, model: str) -> dict[str, float]:
    """data/<model>, data/tokenize -> data/evaluate/<model>. Bits are of a document's text and of the token that ends it, after
    that which ended the one before; of a model of masked diffusion at most so many, which the names of figures say."""
    folder, out = data / model, data / "evaluate" / model
    decoder, tokenizer = read_model(folder, masked=True)
    causal = decoder.config.causal
    if not causal and (asked_of_causal := token_by_token(config)):
        raise ConfigError(f"evaluate.{asked_of_causal[0]}: {MASKED}, and has no likelihood: leave it out")
    decoder.to(device())
    check_tokens(f"evaluate@{model}", tokenizer, data / "tokenize")
    documents = held_out(data / "tokenize", tokenizer)
    vocabulary = decoder.config.vocab_size
    ids = [document.ids for document in documents]
    places = sample_positions([len(one) for one in ids], config.divergence_places if causal else 0, vocabulary)
    kept = Distributions(places, vocabulary)
    bits = (
        document_bits(decoder, ids, log.progress, seen=kept.collect)
        if causal
        else bound_bits(decoder, ids, config.bound_draws, log.progress)
    )
    rows = [
        {
            "id": document.id,
            "source": document.source,
            "group": document.group,
            "bytes": len(document.text.encode()),
            "bits": spent,
            "gzip_bits": gzip_bits(document.text),
        }
        for document, spent in zip(documents, bits, strict=True)
    ]
    if places:
        kept.write(out / FILE, [document.id for document in documents], [document.source for document in documents])
    # under another name, so that no bound is compared with what other models need
    write_table(out / f"{'' if causal else AT_MOST}bits.parquet", pa.Table.from_pylist(rows))

    examples = config.problems.examples("test")[: config.problems_counted]
    answers, rate = answer_all(decoder, tokenizer, config.problems, examples, config.max_new_tokens, log.progress)
    log.fact(tokens_per_second=rate)
    write_answers(out / "answers.parquet", answers)
    covered = {}
    if config.samples:
        tried = sampled_scores(
            decoder, tokenizer, config.problems, examples, config.samples, config.max_new_tokens, config.temperature,
            log.progress,
        )  # fmt: skip
        covered = coverage(tried)
    asked: dict[str, float] = {}
    every_set = [("", answers)]
    for one in config.sets:
        some = one.problems.examples("test")[: config.problems_counted]
        most = one.max_new_tokens or config.max_new_tokens
        found_of_set, _ = answer_all(decoder, tokenizer, one.problems, some, most, log.progress)
        write_answers(out / f"{table_of(one.called)}.parquet", found_of_set)
        asked |= set_metrics(one.called, found_of_set)
        every_set.append((one.called, found_of_set))
    if config.max_overlap is not None:
        sought = [ContaminationTarget(document.id, document.text) for document in documents]
        training = training_texts(data / "tokenize", tokenizer)
        overlaps, apart = split_by_contamination(every_set, sought, rows, training, config.max_overlap)
        write_table(out / f"{OVERLAP}.parquet", pa.Table.from_pylist(overlaps))
        asked |= apart
    for task in config.tasks:
        items = task.items(tokenizer, decoder.config, data)
        found = rows_of_items(items, log_likelihoods(decoder, [item.asked for item in items], log.progress))
        write_table(out / f"{task.label}.parquet", pa.Table.from_pylist(found))
        asked |= accuracy_metrics(task.label, found)
    every: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for strategy in config.decoding:
        found = decode_all(strategy, decoder, tokenizer, config.problems, examples, config.max_new_tokens)
        every += found
        curve.append(point_of(found))
        log.progress(len(curve), len(config.decoding), "strategy")
    if curve:
        write_table(out / f"{ANSWERS}.parquet", pa.Table.from_pylist(every))
        write_table(out / f"{CURVE}.parquet", pa.Table.from_pylist(curve))
    return {
        **(per_byte(rows) if causal else rename_as_bounds(per_byte(rows))),
        **shares_of(answers),
        **covered,
        **asked,
        **curve_metrics(curve),
        **counts_of(answers),
        "held_out_documents": len(rows),
        "size_bytes": weights_bytes(folder),
        "parameters": decoder.num_parameters(),
    }
