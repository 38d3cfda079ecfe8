"""What the studies of one checkout share, however many are held: it is read once, and a run that two of them ask for is one."""

from functools import cached_property
from pathlib import Path
from typing import Any

from flows.arena.keys import Keys
from flows.arena.names import stem_of
from flows.arena.outcomes import Outcomes
from flows.arena.runs import Job, watched
from flows.arena.study import Study
from flows.params.compose import Composer, check
from lm.config import ConfigError
from tasks.runner.git import git


def own_runs(study: Study) -> bool:
    """Whether seconds of the study count, so that no run of another stands for one of this."""
    return study.timed or study.budget.kind == "seconds"


class Checkout:
    """compose(preset, assignments): parameters. keys: of runs. outcomes: what is known, in the file of this folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.compose, self.keys, self.outcomes = Composer(root), Keys(root), Outcomes(folder)

    @cached_property
    def commit(self) -> str:
        """The commit whose code every run has: that of the first study, as keys are of files that are read once."""
        return git(self.root, "rev-parse", "HEAD").strip()

    def key(self, study: Study, name: str, params: dict[str, Any], threads: int) -> str:
        """Key of a run with these parameters and so many threads, of the study of this name, whatever its arm is called: the
        same in every study that measures the same; of one whose seconds count in its variations alone, as with more seeds.
        Raises ConfigError."""
        stage, _ = study.stage_and_metric
        own = [stem_of(name, study)] if own_runs(study) else []
        return self.keys.key(params, stage, [threads, study.measure, watched(study.room), *own])

    def key_of(self, study: Study, name: str, job: Job, threads: int) -> str:
        """Key of a run that is asked for. Raises ConfigError, a line each that names the arm, for parameters that cannot be
        used."""
        params = self.compose(study.preset, job.assignments)
        try:
            check(self.root, params)
        except ConfigError as error:
            raise ConfigError("\n".join(f"arm {job.arm}: {line}" for line in str(error).splitlines())) from None
        return self.key(study, name, params, threads)
