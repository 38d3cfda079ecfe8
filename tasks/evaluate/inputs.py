"""Questions of evaluation's tasks and sets: their files are there and can be read, and there are enough examples. Models that
its decoding reads are there."""

from collections.abc import Iterator
from pathlib import Path

from lm.strategies.assistants import FOLDER
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.evaluate.tasks import Choices
from tasks.evaluate.tasks.choices import read


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with them."""
    for place, strategy in enumerate(sections["evaluate"].decoding):
        for name in strategy.assistants:
            if not Path(FOLDER, name, "config.json").is_file():
                said = f"{Path(FOLDER, name)}: there is no model"
                yield Finding(
                    f"params.yaml: evaluate.decoding.{place}", said, "copy one there, or leave the strategy out"
                )
    for place, one in enumerate(sections["evaluate"].sets):
        try:
            one.problems.examples("test")
        except ValueError as error:
            yield Finding(f"params.yaml: evaluate.sets.{place}", str(error), "mend the files, or leave the set out")
    for place, task in enumerate(sections["evaluate"].tasks):
        if not isinstance(task, Choices):
            continue
        try:
            task.beginning()
            if not read(Path(task.file)):
                raise ConfigError(f"{task.file}: has no question")
        except ConfigError as error:
            yield Finding(f"params.yaml: evaluate.tasks.{place}", str(error), "mend the file, or leave the task out")
