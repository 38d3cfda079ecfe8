"""A study from what was asked to its page: held in .studies/<name>, which keeps what is done."""

import json
from pathlib import Path
from typing import Any

from flows.arena.budget import TOKENS, calibration_tokens, tokens_of
from flows.arena.outcomes import Outcome, Outcomes
from flows.arena.pages.study_page import page_of
from flows.arena.race import TUNING, race
from flows.arena.result import Told, result_of
from flows.arena.runs import Job
from flows.arena.slots import Slots, runs_at_once
from flows.arena.statistics.sequential import is_clear
from flows.arena.study import Study
from lm.files import write_json, write_text
from tasks.core.config import ConfigError
from tasks.runner.git import git
from tasks.runner.machine import described
from tasks.runner.progress import clock

FOLDER = Path(".studies")


def hold(root: Path, name: str, study: Study, at_once: int, today: str, now: Any) -> tuple[dict[str, Any], Path]:
    """(result, path of its page). Says a line for every run. Raises ConfigError, and Failed where a run ends badly."""
    if changed := git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py", "dvc.yaml").strip():
        print(f"study: {len(changed.splitlines())} files differ from the commit, whose code the arms run: commit first")
    folder = root / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", study.model_dump(mode="json"))
    slots = Slots(root, study, name, runs_at_once(at_once), Outcomes(folder))
    teller = Teller(study, now)
    study = within_budget(root, study, slots, teller)
    raced = race(study, lambda jobs: slots.do(jobs, teller.say), clear_of(study))
    told = Told(name, slots.commit[:12], described(), today, slots.threads, slots.at_once)
    result = result_of(study, raced, told)
    write_json(folder / "result.json", result)
    write_text(folder / "index.html", page_of(result))
    return result, folder / "index.html"
