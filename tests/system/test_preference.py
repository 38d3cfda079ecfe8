"""The preference stage as a process: on ranks, and from trunks, the bytes of one that runs alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lm.checkpoint import save_model
from tests.preference.made import TOKENIZER, rows, write_rows, writer
from tests.pretrain.test_trunks import facts, wsd
from tests.project import TINY, digest, make_project, run_stage

pytestmark = pytest.mark.usefixtures("on_cpu")
SOURCES = [{"name": "files"}, {"name": "self_play", "samples": 2, "max_new_tokens": 6}]
LOSSES: list[dict[str, Any]] = [{"name": "dpo"}, {"name": "kto", "undesirable_weight": 0.01}]
EVERY = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["name"])


def project_of(folder: Path, **section: Any) -> Path:
    """A project whose sft has made a small model, with pairs in a file."""
    folder.mkdir(exist_ok=True)
    given = {"steps": 6, "batch": 4, "pairs": SOURCES, **section}
    project = make_project(folder, {**TINY, "preference": {**TINY["preference"], **given}})
    (project / "data/sft").mkdir()
    save_model(project / "data/sft", writer(), TOKENIZER)
    write_rows(project / "data/preferences", rows(30))
    return project


@EVERY
def test_ranks_equal_one_process(loss: dict[str, Any], tmp_path: Path) -> None:
    """What is made once before the first step, and what the start model makes of a step, is the same on each rank."""
    project, found = project_of(tmp_path, loss=loss, shards=2), []
    for ranks in ("1", "2"):
        run_stage(project, "preference", TOKENMILL_RANKS=ranks)
        found.append(digest(project / "data/preference"))
        shutil.rmtree(project / "data/preference")
    assert found[0] == found[1]


@EVERY
def test_more_steps_go_on_from_the_trunk(loss: dict[str, Any], tmp_path: Path) -> None:
    for steps, decay in ((20, 0.2), (30, 0.4)):
        project = project_of(tmp_path / str(steps), loss=loss, steps=steps, schedule=wsd(decay))
        run_stage(project, "preference", TOKENMILL_TRUNKS=str(tmp_path / "trunks"))
    found = digest(project / "data/preference")
    assert facts(project, "preference")["steps_from_trunk"] == 17
    run_stage(project, "preference")
    assert digest(project / "data/preference") == found
