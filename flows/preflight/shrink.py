"""The same params at toy width: every method as chosen, everything that costs made small, as each room says how.

What is made small is valid by construction: whether the true numbers are is told by contracts.py, with these numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.config import Config
from lm.problems.example import Example, Score
from tasks.about.shrink import PROBLEMS
from tasks.about.toy import toy_of
from tasks.core.config import CHECKPOINT


def toy_params(params: dict[str, Any], stages: Iterable[str], folder: Path) -> dict[str, Any]:
    """Params of the toy run, which has its inputs and its data in this folder."""
    toy = with_folder_replaced(params, params.get(CHECKPOINT, {}).get("folder"), str(folder / "data" / CHECKPOINT))
    for stage in dict.fromkeys(stages):
        if isinstance(toy.get(stage), dict):
            toy[stage] = {**toy[stage], **toy_of(stage, toy, folder)}
    return toy


def with_folder_replaced(value: Any, old: str | None, new: str) -> Any:
    """A copy in which every path in the folder `old` is in `new`."""
    if isinstance(value, dict):
        return {key: with_folder_replaced(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [with_folder_replaced(part, old, new) for part in value]
    if isinstance(value, str) and old and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


@dataclass
class Few:
    """A problem set with the shortest and the longest problems of each split alone, read once for all stages."""

    whole: Any

    def __post_init__(self) -> None:
        self._splits: dict[str, list[Example]] = {}

    def examples(self, split: str) -> list[Example]:
        if split not in self._splits:
            every = sorted(self.whole.examples(split), key=lambda e: len(e.prompt) + len(e.demonstration))
            few = every if len(every) <= PROBLEMS else [*every[: PROBLEMS - 2], *every[-2:]]
            self._splits[split] = few
        return self._splits[split]

    def score(self, example: Example, text: str) -> Score:
        return self.whole.score(example, text)


def with_few_problems(config: Config, known: dict[Any, Few]) -> Config:
    """The config with a small problem set in place of its own, where it has one."""
    problems = getattr(config, "problems", None)
    if problems is None:
        return config
    return config.model_copy(update={"problems": known.setdefault(problems, Few(problems))})
