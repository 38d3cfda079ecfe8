"""Curriculum: the plan that pretraining follows, which token ranges of which documents fill which sequence of which step."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from lm.config import Config, choice
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.stage import main
from tasks.core.tables import read_table, write_table
from tasks.curriculum import methods
from tasks.curriculum.plan import Budget, Documents, Ranges

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("sequence", pa.int32()),
        ("document", pa.int32()),
        ("start", pa.int64()),
        ("length", pa.int32()),
    ]
)


class CurriculumConfig(Config):
    method: choice(methods)
    tokens: int = Field(gt=0, description="predictions in all")
    tokens_per_step: int = Field(gt=0, description="predictions a step")
    seed: int


def read_documents(path: Path) -> Documents:
    """The documents that are not held out."""
    table = read_table(path, ["split", "start", "length"])
    rows = np.flatnonzero(np.array(table.column("split").to_pylist()) == "train")
    return Documents(rows, table.column("start").to_numpy()[rows], table.column("length").to_numpy()[rows])


def metrics_of(plan: Ranges, documents: Documents) -> dict[str, float]:
    """What the plan does with the corpus. Predictions: a sequence of n + 1 tokens has n."""
    sequences = len(np.unique(plan.step.astype(np.int64) << 32 | plan.sequence))
    planned, corpus = int(plan.length.sum()), int(documents.length.sum())
    # tokens used at least once: ranges sorted by start, each counted from where those before it ended
    order = np.argsort(plan.start, kind="stable")
    starts, ends = plan.start[order], (plan.start + plan.length)[order]
    reached = np.maximum.accumulate(np.concatenate(([0], ends[:-1])))
    unique = int(np.maximum(0, ends - np.maximum(starts, reached)).sum())
    return {
        "steps": int(plan.step[-1]) + 1,
        "sequences": sequences,
        "tokens": planned - sequences,
        "epochs": (planned - sequences) / corpus,
        "unique_token_fraction": unique / corpus,
        "mean_sequence_length": (planned - sequences) / sequences,
    }


def run(config: CurriculumConfig, data: Path, log: Log) -> dict[str, float]:
    """data/tokenize -> data/curriculum."""
    documents = read_documents(data / "tokenize" / "documents.parquet")
    budget = Budget(config.tokens, config.tokens_per_step)
    if not budget.steps:
        raise ConfigError(
            f"curriculum.tokens: {config.tokens} is less than one step of {config.tokens_per_step} tokens"
        )
    plan = config.method(documents, budget, config.seed)
    columns = [plan.step, plan.sequence, plan.document, plan.start, plan.length]
    table = pa.table(
        [pa.array(c.astype(t.to_pandas_dtype())) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA
    )
    write_table(data / "curriculum" / "plan.parquet", table)
    return metrics_of(plan, documents)


if __name__ == "__main__":
    main("curriculum", CurriculumConfig, run)
