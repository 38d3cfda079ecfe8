"""The tiny project in which the default stages have run: made once for a whole run of the tests, whoever of its processes asks first.

Tests take copies: a stage that some test does not test itself is not run for it.
"""

import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.project import DATA_STAGES, TINY, make_project, run_stage

STAGES = (*DATA_STAGES, "pretrain", "sft", "rl", "distill")


@dataclass(frozen=True)
class Tiny:
    """The project, made in `folder` as far as it was asked for."""

    folder: Path

    def project(self, folder: Path, last: str, params: dict[str, Any] = TINY) -> Path:
        """A project of its own with these params in which the stages up to `last` have run. Raises AssertionError where the
        params of one of these differ from the tiny project's, or it would have been of other params."""
        stages = STAGES[: STAGES.index(last) + 1]
        differ = [name for name in ("seed", "problems", *stages) if params[name] != TINY[name]]
        assert not differ, f"not the tiny project's: {differ}"
        made = self._made(stages)
        folder.mkdir(exist_ok=True)
        project = make_project(folder, params)
        for stage in stages:
            shutil.copytree(made / "data" / stage, project / "data" / stage)
            for path in (made / "data").glob(f"*/{stage}.*"):  # its metrics, timings and key
                (project / path.relative_to(made)).parent.mkdir(exist_ok=True)
                shutil.copy2(path, project / path.relative_to(made))
        return project

    def _made(self, stages: tuple[str, ...]) -> Path:
        """The finished project, once these have run in it."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            project = self.folder / "project"
            if not project.exists():
                project.mkdir()
                make_project(project, TINY)
            for stage in stages:
                if not (project / "data" / stage).exists():
                    run_stage(project, stage)
        return project
