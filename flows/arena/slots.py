"""Places in which runs of a study go on side by side: variants of this checkout, with the code of its commit."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from flows.arena.outcomes import Outcome, Outcomes
from flows.arena.runs import Job, run
from flows.arena.study import Study
from flows.stage.process import stop_all
from flows.workspaces import variants
from tasks.core.process import cores
from tasks.runner.git import git


def runs_at_once(asked: int) -> int:
    """How many runs go on at once: as asked, else one a core up to 8, the most that shared memory and disk were tried
    with."""
    return asked or min(8, cores())


class Slots:
    """Does jobs of a study, several at once; each outcome is written down as it comes, and what is known is not run again."""

    def __init__(self, root: Path, study: Study, name: str, at_once: int, outcomes: Outcomes) -> None:
        self._root, self._study, self._outcomes = root, study, outcomes
        self.threads = max(1, cores() // at_once)
        self.commit = git(root, "rev-parse", "HEAD").strip()
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(at_once):
            folder = variants.place(root, f"{name}-{number}")
            if folder.exists() and git(folder, "rev-parse", "HEAD").strip() != self.commit:
                variants.remove(root, folder.name)
            self._free.put(variants.make(root, folder.name, self.commit))
        self._at_once, self._writing = at_once, Lock()

    def do(self, jobs: Sequence[Job], say: Callable[[Job, Outcome, bool], None]) -> list[Outcome]:
        """The outcomes of the jobs, in their order. say: called for each that is done, True for one that was known. The
        first that fails ends the others, and its error is raised."""
        keys = [job.digest([self._study.preset, self._study.measure, self.threads, self.commit]) for job in jobs]
        todo: dict[str, Job] = {}
        for key, job in zip(keys, jobs, strict=True):
            if key in self._outcomes.known:
                say(job, self._outcomes.known[key], True)
            else:
                todo.setdefault(key, job)
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                going = [pool.submit(self._one, key, job, say) for key, job in todo.items()]
                done, _ = wait(going, return_when=FIRST_EXCEPTION)
                for each in done:
                    each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_all()
                raise
        return [self._outcomes.known[key] for key in keys]

    def _one(self, key: str, job: Job, say: Callable[[Job, Outcome, bool], None]) -> None:
        folder = self._free.get()
        try:
            lines: list[str] = []
            outcome = run(self._root, folder, self._study, job, key, self.threads, lines.append)
            with self._writing:
                self._outcomes.add(outcome)
                say(job, outcome, False)
        finally:
            self._free.put(folder)
