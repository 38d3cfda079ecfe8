"""Rollouts as data: data/rl/rollouts.parquet, a row for each answer that was sampled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from lm.files import replacing
from lm.problems.example import Example
from tasks.core.tables import Writer
from tasks.rl.answers import Verdicts
from tasks.rl.curricula.base import DrawnProblem
from tasks.rl.rewards.base import Part, part_names

SCHEMA = pa.schema(
    [
        pa.field("rollout", pa.int32()),
        pa.field("policy", pa.int32()),  # updates that the weights which sampled had behind them
        pa.field("problem", pa.string()),
        pa.field("level", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("prompt_ids", pa.list_(pa.int32())),  # a hint included
        pa.field("ids", pa.list_(pa.int32())),
        pa.field("logps", pa.list_(pa.float32())),  # nats, under which each token was drawn; 0 of an environment's
        pa.field("finished", pa.bool_()),
        pa.field("score", pa.float32()),  # the verifier's; null where it failed
        pa.field("reward", pa.float32()),  # null of an invalid answer
        pa.field("advantage", pa.float32()),
        # whether the updates of its rollout are of it; a replay's are of it once more later, and a run may end before they are
        pa.field("learned", pa.bool_()),
    ]
)
OWN = pa.field("own", pa.list_(pa.bool_()))  # of each token whether the model wrote it, and so learns from it


class Ledger:
    """A file a rollout in a folder that outlives a kill, put together at the end. A rollout that is made again, since the run
    was killed, replaces its file by the same bytes."""

    def __init__(self, folder: Path, rewards: Sequence[Part], results: bool = False) -> None:
        """results: whether answers hold what an environment added, so that the column `own` says which tokens are the
        model's."""
        self._folder, self._parts = folder, [f"reward_{name}" for name in part_names(rewards)]
        self._own = [OWN] if results else []
        self.schema = pa.schema([*SCHEMA, *self._own, *(pa.field(name, pa.float32()) for name in self._parts)])

    def write(
        self,
        number: int,
        policy: int,
        asked: Sequence[DrawnProblem],
        examples: Sequence[Example],
        found: Verdicts,
        advantages_GS: Tensor,
        learned_GS: Tensor,
    ) -> None:
        """Keep a rollout, rollouts counted from 0: all answers that were sampled, and whether each is learned from."""
        samples = found.rewards_GS.shape[1]
        rows = [(place, sample) for place in range(len(asked)) for sample in range(samples)]
        problems = [examples[problem.index] for problem in asked]
        columns: dict[str, list[Any]] = {
            "rollout": [number] * len(rows),
            "policy": [policy] * len(rows),
            "problem": [problems[place].id for place, _ in rows],
            "level": [problems[place].level for place, _ in rows],
            "sample": [sample for _, sample in rows],
            "prompt_ids": found.prompts,
            "ids": [completion.ids for completion in found.completions],
            "logps": [completion.logps for completion in found.completions],
            "finished": [completion.finished for completion in found.completions],
            "score": known(found.scores_GS.flatten().tolist()),
            "reward": known(found.rewards_GS.flatten().tolist()),
            "advantage": advantages_GS.flatten().tolist(),
            "learned": learned_GS.flatten().tolist(),
        }
        if self._own:
            columns[OWN.name] = [completion.own for completion in found.completions]
        columns |= dict(zip(self._parts, map(known, found.values), strict=True))
        with replacing(self._path(number)) as unfinished:
            pq.write_table(pa.table(columns, self.schema), unfinished)

    def gather(self, rollouts: int, target: Path) -> None:
        """Write all rollouts, in their order, as one table."""
        with Writer(target, self.schema) as writer:
            for number in range(rollouts):
                writer.write(pq.read_table(self._path(number), schema=self.schema))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08}.parquet"


def known(values: list[float]) -> list[float | None]:
    """The values, None where they are NaN."""
    return [None if value != value else value for value in values]
