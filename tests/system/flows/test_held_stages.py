"""What DVC records of every real stage is of the parameters that it read, whatever is edited when.

One stage, another with each commit; TOKENMILL_CHAOS=all (`make chaos`) has all of them.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.core.yaml import read_yaml
from tasks.runner.git import revision
from tests.project import ROOT, TINY, write_params
from tests.system.flows.test_held import ALL, OURS, Edited, edit_at_random, repository
from tests.tiny import Tiny

FEW = ({"steps": 2}, {"steps": 3})
LINES = {"name": "c4", "min_words": 0, "min_sentences": 0}
PAIRS = {"pairs": [{"name": "files"}], "batch": 4}
# Of each stage what had run before it, and two sections that give two outputs; of ingest and dedup test_held.py has edits of all kinds.
STAGES: dict[str, tuple[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "filter": ("dedup", tuple({"lines": {**LINES, "end_marks": marks}} for marks in ("!0123456789", "!02468"))),
    "tokenize": ("filter", ({"held_out_fraction": 0.1}, {"held_out_fraction": 0.3})),
    "curriculum": ("tokenize", ({"tokens": 8192}, {"tokens": 4096})),
    "pretrain": ("curriculum", ({"clip": 0.5}, {"clip": 0.25})),
    "sft": ("pretrain", FEW),
    "preference": ("sft", ({**PAIRS, **FEW[0]}, {**PAIRS, **FEW[1]})),
    "reward": ("sft", ({**PAIRS, **FEW[0]}, {**PAIRS, **FEW[1]})),
    "rl": ("sft", FEW),
    "lessons": ("rl", FEW),
    "distill": ("rl", FEW),
    "prune": ("distill", tuple({"weights": {"name": "wanda", "share": share}} for share in (0.5, 0.25))),
    "quantize": ("distill", tuple({"method": {"name": "rtn", "group": group}} for group in (16, 32))),
    "evaluate": ("rl", ({"problems_counted": 20}, {"problems_counted": 10})),
}
DRAWN = [*STAGES] if ALL else [random.Random(revision(ROOT)).choice([*STAGES])]


def test_no_stage_is_left_out() -> None:
    assert {*STAGES, "ingest", "dedup"} == {*read_yaml(ROOT / "dvc.yaml")["stages"]}


@pytest.mark.parametrize("stage", DRAWN)
def test_no_edit_of_a_parameter_is_recorded_falsely(tiny: Tiny, tmp_path: Path, stage: str) -> None:
    last, sections = STAGES[stage]
    project = tiny.project(tmp_path / "project", last)
    (project / ".dvcignore").unlink()  # a link to the project's own
    repository(project)
    rows = [{"prompt": f"{n} + 1 =", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(24)]
    (project / "data/preferences/own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    versions = []
    for section in sections:
        write_params(project, {**TINY, "models": ["rl"], stage: {**TINY[stage], **section}})
        versions.append((project / "params.yaml").read_bytes())
    address = "evaluate@rl" if stage == "evaluate" else stage
    edits = {"a parameter": ("params.yaml", versions[0], versions[1])}
    edit_at_random(Edited(project, address, edits, OURS), 5 if ALL else 2, 5)
