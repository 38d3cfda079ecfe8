"""Problem sets beside the one that later stages learn from: each has its own answers and its own share of right ones."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from lm import problems
from lm.config import Config, choice
from lm.intervals import wilson
from lm.problems.folder import Folder
from tasks.core.config import check_watched
from tasks.core.tables import write_table
from tasks.evaluate.accuracy import Answer


class ProblemSet(Config):
    """A set of lm/problems under a name. Its test split is asked for, as that of `problems` is; nothing is trained on the
    others."""

    label: str = Field(
        "", pattern="^[a-z0-9_]*$", description="what its figures begin with; empty: the name of the set's kind"
    )
    max_new_tokens: int | None = Field(None, gt=0, description="of an answer; absent: those of evaluate")
    problems: choice(problems)

    @property
    def called(self) -> str:
        """What its figures begin with."""
        return self.label or self.problems.name

    def check(self, watched: str) -> None:
        """Raises ValueError for files outside the watched folder, which DVC would not see change."""
        if isinstance(self.problems, Folder):
            check_watched("evaluate.sets", [self.problems.folder], [watched])


def table_of(called: str) -> str:
    """Name of the table of a set's answers in data/evaluate/<model>."""
    return f"answers_{called}"


def write_answers(path: Path, answers: list[Answer]) -> None:
    """Write a row for each problem: what was asked, what was answered, and what the verifier says of it."""
    columns = {
        "id": [a.example.id for a in answers],
        "prompt": [a.example.prompt for a in answers],
        "completion": [a.completion for a in answers],
        "answer": [a.example.answer for a in answers],
        "score": pa.array([a.score.value for a in answers], pa.float64()),
        "valid": pa.array([a.score.valid for a in answers], pa.bool_()),
    }
    write_table(path, pa.table(columns))


def shares_of(answers: list[Answer]) -> dict[str, float]:
    """The share of right answers among those that have a verdict, with its 95% interval (Wilson)."""
    valid = [a.score.value for a in answers if a.score.valid]
    low, high = wilson(sum(valid), len(valid))
    return {"accuracy": sum(valid) / len(valid) if valid else 0.0, "accuracy_low": low, "accuracy_high": high}


def counts_of(answers: list[Answer]) -> dict[str, Any]:
    """How many problems were asked, and how many of the answers have no verdict."""
    return {"problems": len(answers), "invalid": sum(not a.score.valid for a in answers)}


def set_metrics(called: str, answers: list[Answer]) -> dict[str, float]:
    """Metrics of a set, each behind its name."""
    return {f"{called}_{name}": value for name, value in (shares_of(answers) | counts_of(answers)).items()}
