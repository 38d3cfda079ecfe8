"""The trainers after pretraining share trunks as it does: with more steps and another decay, the same bytes as alone."""

from pathlib import Path

import pytest

from tests.pretrain.test_trunks import facts, params, wsd
from tests.project import DATA_STAGES, digest, make_project, run_stage
from tests.tiny import Tiny

AFTER = ["curriculum", "pretrain", "sft", "rl"]
BEFORE = [*DATA_STAGES[:4], *AFTER]


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every stage before distill."""
    project = tiny.project(tmp_path_factory.mktemp("made"), "tokenize", params())
    for stage in AFTER:
        run_stage(project, stage)
    return project


@pytest.mark.parametrize("stage", ["sft", "rl", "distill"])
def test_more_steps_go_on_from_the_trunk(stage: str, made: Path, tmp_path: Path) -> None:
    for steps, decay in ((20, 0.2), (30, 0.4)):
        values = params()
        values[stage] = {**values[stage], "steps": steps, "schedule": wsd(decay)}
        (tmp_path / str(steps)).mkdir()
        project = make_project(tmp_path / str(steps), values)
        for name in BEFORE:
            if name != stage:
                (project / "data" / name).symlink_to(made / "data" / name)
        run_stage(project, stage, TOKENMILL_TRUNKS=str(tmp_path / "trunks"))
    found = digest(project / "data" / stage)
    assert facts(project, stage)["steps_from_trunk"] == 17
    run_stage(project, stage)
    assert digest(project / "data" / stage) == found
