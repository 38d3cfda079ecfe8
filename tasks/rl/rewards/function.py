"""A function of the user's own, with the signature that TRL's trainers call: `reward(prompts, completions, **columns)`."""

import json
import math
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.config import ConfigError
from lm.sandbox.run import end_group
from tasks.rl.rewards.base import Answer, Part, RewardContext

FOLDER = "data/rewards"
WORKER = Path(__file__).with_name("worker.py")
START_SECONDS = 60.0  # for the imports of the function's file


def columns_of(answers: list[Answer]) -> dict[str, list[Any]]:
    """What the function is called with for the answers to a problem: what TRL gives of the completions, and the columns of the
    problem."""
    examples = [answer.example for answer in answers]
    return {
        "prompts": [example.prompt for example in examples],
        "completions": [answer.text for answer in answers],
        "completion_ids": [answer.ids for answer in answers],
        "answer": [example.answer for example in examples],
        "demonstration": [example.demonstration for example in examples],
        "id": [example.id for example in examples],
        "level": [example.level for example in examples],
    }


class Function(Part):
    """`reward(prompts, completions, **columns) -> list[float]` of a Python file in data/rewards, which the stage depends on
    with all that lies there. Columns: completion_ids, answer, demonstration, id, level, a list each, as long as `completions`.

    It is called for the answers to one problem at a time, in a process of its own that lives as long as a rollout is scored:
    what it keeps in memory cannot make a run that was killed and went on another one, and what it breaks is not the trainer. An
    answer on which it raises, takes too long or gives no finite number is invalid. Differs from TRL: None counts for 0 there
    and here, but a batch there holds answers to several problems, and `trainer_state` is not given."""

    name: Literal["function"] = "function"
    file: str = Field(description=f"a Python file in {FOLDER}")
    function: str = Field("reward", pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="its name in the file")
    seconds: float = Field(10.0, gt=0, description="that it may take for the answers to one problem")

    @property
    def reads(self) -> list[str]:
        return [self.file]

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        """Raises ConfigError where it fails on every answer: there is nothing to learn from."""
        groups = [list(group) for _, group in groupby(answers, key=lambda answer: id(answer.example))]
        found = [each for group in self._asked(groups) for each in group]
        failed = [reason for _, reason in found if reason is not None]
        if failed:
            said = f"rl.rewards: {self.function} of {self.file} failed on {len(failed)} of {len(found)} answers: {failed[0]}"
            if len(failed) == len(found):
                raise ConfigError(said)
            print(f"{said}; they are left out", file=sys.stderr)
        return [math.nan if reason is not None or value is None else value for value, reason in found]

    def _asked(self, groups: list[list[Answer]]) -> list[list[tuple[float | None, str | None]]]:
        """(reward, None) or (None, why) of each answer to each problem."""
        if not Path(self.file).is_file():
            raise ConfigError(f"rl.rewards: {self.file}: no such file")
        command = [sys.executable, "-P", str(WORKER), self.file, self.function, str(self.seconds)]
        # a fixed seed of hashes: the order of a set must not be another one when the run goes on
        surroundings = {**os.environ, "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings, start_new_session=True
        )
        request = json.dumps({"problems": [columns_of(group) for group in groups]})
        answers = sum(map(len, groups))
        try:
            out, _ = process.communicate(request, START_SECONDS + self.seconds * (answers + len(groups)))
            reason = f"its process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            end_group(process)
            out, _ = process.communicate()
            reason = "its process took too long and was killed"
        finally:
            end_group(process)
        lines = [json.loads(line) for line in out.rpartition("\n")[0].splitlines()]
        return lines + [[(None, reason)] * len(group) for group in groups[len(lines) :]]
