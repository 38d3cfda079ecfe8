"""Places in which runs of a study go on side by side: variants of this checkout, with the code of its commit."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from threading import Lock

from flows.arena.checkout import Checkout
from flows.arena.outcomes import Outcome
from flows.arena.runs import Job, run
from flows.arena.stamp import in_words
from flows.arena.study import Study
from flows.stage.process import stop_all
from flows.stage.ready import ready
from flows.staleness.false_entries import look_on_from, take_out
from flows.workspaces import variants
from lm.config import ConfigError
from tasks.core.process import cores
from tasks.runner.git import git
from tasks.runner.graph import graph_of, with_upstream
from tasks.runner.machine import hardware
from tasks.runner.say import say as tell

Say = Callable[[Job, Outcome, bool], None]


def runs_at_once(asked: int) -> int:
    """How many runs go on at once: as asked, else one a core up to 8, as disk and memory are shared."""
    return asked or min(8, cores())


def threads_of(at_once: int) -> int:
    """Threads of a run where so many go on at once."""
    return max(1, cores() // at_once)


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def clear_other(root: Path, folder: Path, commit: str) -> None:
    """Take away a variant of another commit than this one, or what a kill left of one that git had not made yet."""
    if not folder.exists():
        return
    variants.repair(root)
    try:
        there = git(folder, "rev-parse", "HEAD").strip()
    except ConfigError:
        rmtree(folder)
        return
    if there != commit:
        variants.remove(root, folder.name)


class Slots:
    """Does jobs of a study, several at once; each outcome is written down as it comes, and what is known is not run again.
    recorded: the environment by which stages have this process record their runs. kept: what ends with the study, such as
    the processes that stages are forked from."""

    def __init__(
        self,
        root: Path,
        study: Study,
        name: str,
        at_once: int,
        checkout: Checkout,
        recorded: dict[str, str],
        kept: ExitStack,
    ) -> None:
        self._recorded = recorded
        self._warned: set[str] = set()
        self._root, self._study, self._name, self._checkout = root, study, name, checkout
        self._outcomes = checkout.outcomes
        self._at_once, self._writing = at_once, Lock()
        self._free: SimpleQueue[Path] | None = None
        self._kept = kept
        self.threads = threads_of(at_once)
        self.commit = checkout.commit

    def do(self, jobs: Sequence[Job], say: Say) -> list[Outcome]:
        """The outcomes of the jobs, in their order. say: called for each that is done, True for one that was known. Raises
        ConfigError, before anything runs, for parameters that cannot be used. Behind the first run that fails none begins,
        and its error is raised once those that go on have ended."""
        keys = [self.key(job) for job in jobs]
        todo: dict[str, Job] = {}
        others: list[tuple[str, Job]] = []
        for key, job in zip(keys, jobs, strict=True):
            if key in self._outcomes.known or key in todo:
                others.append((key, job))
            else:
                todo[key] = job
        if todo:
            self._run(todo, say)
        for key, job in others:
            say(job, self._outcomes.known[key], True)
        return [
            replace(self._outcomes.known[key], arm=job.arm, tuned=job.tuned, seed=job.seed)
            for key, job in zip(keys, jobs, strict=True)
        ]

    def key(self, job: Job) -> str:
        """Key of the run. Raises ConfigError."""
        return self._checkout.key_of(self._study, self._name, job, self.threads)

    def _run(self, todo: dict[str, Job], say: Say) -> None:
        free = self._places()
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                going = [pool.submit(self._one, free, key, job, say) for key, job in todo.items()]
                done, _ = wait(going, return_when=FIRST_EXCEPTION)
                for each in done:
                    each.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):
                    stop_all()  # of a failure not: no stage begins behind it, and other studies are held
                raise

    def _one(self, free: "SimpleQueue[Path]", key: str, job: Job, say: Say) -> None:
        folder = free.get()
        try:
            found = run(
                self._root,
                folder,
                self._study,
                job,
                key,
                self.threads,
                self._at_once,
                self._recorded,
                self._pass_on,
                self._checkout.keys.md5,
            )
            outcome = replace(
                found,
                study=self._name,
                made=time.time(),
                commit=self._checkout.commit[:12],
                machine=in_words(hardware()),
            )
            with self._writing:
                self._outcomes.add(outcome)
                say(job, outcome, False)
        finally:
            free.put(folder)

    def _pass_on(self, line: str) -> None:
        """Say a warning of a stage, once however many runs have it."""
        if line.startswith("warning: ") and line not in self._warned:
            self._warned.add(line)
            tell(line, error=True)

    def _places(self) -> "SimpleQueue[Path]":
        """The variants, made when the first run needs one. One of another commit is made anew. Raises ConfigError where
        files that the arms run differ from the commit, or the checkout is at another one whose files do."""
        if self._free is None:
            asked = "*.py", "dvc.yaml", "presets"
            changed = git(self._root, "status", "--porcelain", "--untracked-files=no", "--", *asked).splitlines()
            if changed:
                raise ConfigError(
                    f"{first_of([line.split(maxsplit=1)[1] for line in changed])}: not committed, and arms run the commit's "
                    "code: commit first"
                )
            if moved := git(self._root, "diff", "--name-only", self.commit, "HEAD", "--", *asked).splitlines():
                raise ConfigError(
                    f"{first_of(moved)}: committed since this command began, and runs that studies share would be of two "
                    "codes: run it again"
                )
            stage, _ = self._study.stage_and_metric
            params = self._checkout.compose(self._study.preset, self._study.assignments(self._study.baseline, {}, 0))
            self._kept.enter_context(ready(self._root, with_upstream(graph_of(self._root, params), [stage]), params))
            for line in take_out(self._root):
                tell(line)
            self._free = SimpleQueue()
            for number in range(self._at_once):
                folder = variants.place(self._root, f"study-{number}-{self._name}"[:60])
                clear_other(self._root, folder, self.commit)
                variants.make(self._root, folder.name, self.commit)
                look_on_from(self._root, folder)
                self._free.put(folder)
        return self._free

    def clear(self) -> None:
        """Take the variants away; what they made is in DVC's cache."""
        while self._free is not None and not self._free.empty():
            variants.remove(self._root, self._free.get().name)
