"""The last act of a run that asked for it: its final model becomes the one that is in use, if it passes the gates.

Published is the model that the alias `champion` of the registry points to; one that the section `gates` of params.yaml keeps
out is `candidate` alone, with the reason as a tag. It is a reference (path, DVC md5, git revision);
where a DVC remote is configured, the bytes are pushed there first, so that who reads the reference can get them.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dvc.repo import Repo
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.environment import environment
from flows.params.gates import gates_of
from flows.pipeline.finish import REGISTERED_AS, final_model
from flows.pipeline.gates import cached_answers, check_gates, evaluation_of
from flows.stage.transfer import stage_of
from flows.staleness.lost_objects import cached_outputs, count_missing_in_remote, is_lost, recommit_lost_objects
from tasks.report.read import read_params
from tasks.runner.lock import md5_in_lock
from tasks.runner.registry import EVALUATION, GATES, champion_of, nominate_model, publish_model

# A run that waits holds its place in the queue, so it does not wait for ever.
APPROVAL_SECONDS, LOOK_SECONDS = 7 * 24 * 3600, 2


class Approval(RunInput):
    """What the form of a paused run asks."""

    decision: Literal["publish", "decline"] = Field(
        title="Decision", description="publish: the model becomes champion; decline: the run ends, nothing is published"
    )


@dataclass(frozen=True)
class Candidate:
    """A model that can be published: the stage that made it, and DVC's md5 of what it made."""

    stage: str
    md5: str

    @property
    def path(self) -> str:
        return f"data/{self.stage}"


def candidate(root: Path) -> Candidate | None:
    """The final model as dvc.lock has it; None when there is none."""
    address = final_model(root)
    md5 = md5_in_lock(root, address, f"data/{address}") if address else None
    return Candidate(address, md5) if address and md5 else None


def conclude(root: Path, asked: str, revision: str, run: str | None, about: list[str]) -> None:
    """Publish the final model if that was asked for and, where it needs approval, given; the artifact `published` says what
    became of it. `about`: lines for who is to approve it. Raises RuntimeError when it cannot be published."""
    if asked == "no":
        return
    found = candidate(root)
    if found is None:
        raise RuntimeError("publish: there is no model; run the stages that make one")
    passes, tags = check_candidate(root, found)
    if not passes:
        version = nominate_model(REGISTERED_AS, found.stage, found.path, found.md5, revision, tags)
        said = (
            f"`{found.path}` (md5 `{found.md5}`) is `{REGISTERED_AS}` version {version}, alias `candidate`, and not champion: "
            f"{tags[GATES]}."
        )
    elif asked == "after approval" and not await_approval(found, [*about, *([tags[GATES]] if GATES in tags else [])]):
        said = f"Declined: `{found.path}` (md5 `{found.md5}`) was not published."
    else:
        said = publish(root, found, revision, run, tags)
    print(said)
    create_markdown_artifact(said, key="published", description="whether the model was published")


def check_candidate(root: Path, found: Candidate) -> tuple[bool, dict[str, str]]:
    """Whether the model passes the gates of params.yaml, and tags of its version: why, where a gate is set, and DVC's md5 of
    its evaluation, where it has one. Raises RuntimeError where the registry does not answer."""
    gates = gates_of(read_params(root))
    own = evaluation_of(root, found.stage, found.md5)
    evaluation = {EVALUATION: own.md5} if own and own.md5 else {}
    if not gates.asked:
        return True, evaluation
    champion = champion_of(REGISTERED_AS)
    same = champion is not None and champion.get("dvc.md5") == found.md5
    needed = champion is not None and not same and gates.max_accuracy_loss is not None
    answers = cached_answers(root, champion.get(EVALUATION, "")) if needed and champion is not None else None
    passes, reason = check_gates(gates, own, same, answers)
    return passes, {GATES: reason, **evaluation}


def await_approval(found: Candidate, about: list[str]) -> bool:
    """Wait, paused, until a person decides in the UI. Raises RuntimeError when nobody does."""
    text = [f"**Publish `{found.path}` as `{REGISTERED_AS}@champion`?** DVC md5 `{found.md5}`", *about]
    asks = Approval.with_initial_data(description="\n\n".join(text))
    try:
        return pause_flow_run(asks, timeout=APPROVAL_SECONDS, poll_interval=LOOK_SECONDS).decision == "publish"
    except FlowPauseTimeout:
        raise RuntimeError(f"publish: nobody decided within {APPROVAL_SECONDS // 86400} days") from None


def publish(root: Path, found: Candidate, revision: str, run: str | None, tags: dict[str, str] | None = None) -> str:
    """Push and mark the model, its version with these tags; returns a sentence that says so. Raises RuntimeError, with nothing
    marked, when the model is no longer the one that was looked at, or a service refuses."""
    if candidate(root) != found:
        raise RuntimeError(f"publish: {found.path} was made anew in the meantime; start a run to publish the new one")
    pushed = push(root, found.stage)
    tags = tags or {}
    version = publish_model(REGISTERED_AS, found.stage, found.path, found.md5, revision, run, tags)
    where = (
        f"Its bytes are on the DVC remote `{pushed}`"
        if pushed
        else "Its bytes are here only: no DVC remote is configured"
    )
    why = f" Gates: {tags[GATES]}." if GATES in tags else ""
    return f"`{found.path}` (md5 `{found.md5}`) is `{REGISTERED_AS}` version {version}, alias `champion`. {where}.{why}"


def push(root: Path, address: str) -> str | None:
    """Push all that dvc.lock names to the default remote; returns its name, None where there is none. Raises RuntimeError when
    the output of this stage is not all there afterwards: DVC passes over what its cache lacks."""
    with Repo(str(root)) as repo:
        remote = repo.config["core"].get("remote")
        stages = {stage.addressing for stage in repo.index.stages}
    if not remote:
        return None
    if mended := recommit_lost_objects(root, stages):
        print(mended)
    with Repo(str(root)) as repo:
        if any(map(is_lost, cached_outputs(stage_of(repo, address)))):
            raise RuntimeError(
                f"publish: DVC's cache lacks bytes of data/{address}, and data/ has others: run the stage again (FORCE=1)"
            )
    command = [sys.executable, "-m", "dvc", "push", "--quiet"]
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"publish: dvc push to {remote} failed: {' '.join(done.stderr.split())[-500:]}")
    with Repo(str(root)) as repo:
        if lacking := count_missing_in_remote(repo, stage_of(repo, address)):
            raise RuntimeError(
                f"publish: dvc push to {remote} ended, but {lacking} files of data/{address} are not there"
            )
    return remote
