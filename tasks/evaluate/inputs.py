"""Questions of evaluation's tasks: their files are there and can be read, and there are enough examples."""

from collections.abc import Iterator
from pathlib import Path

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.evaluate.tasks import Choices
from tasks.evaluate.tasks.choices import read


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with them."""
    for place, task in enumerate(sections["evaluate"].tasks):
        if not isinstance(task, Choices):
            continue
        try:
            task.beginning()
            if not read(Path(task.file)):
                raise ConfigError(f"{task.file}: has no question")
        except ConfigError as error:
            yield Finding(f"params.yaml: evaluate.tasks.{place}", str(error), "mend the file, or leave the task out")
