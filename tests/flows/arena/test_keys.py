"""A run's key holds what decides its outcome, whatever the arm is called, and nothing beside it."""

from pathlib import Path

import pytest

from flows.arena.keys import Keys
from flows.params.compose import compose
from flows.workspaces.smoke import copy_project
from tests.project import ROOT

STAGE = "evaluate@pretrain"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "project"
    folder.mkdir()
    return copy_project(ROOT, folder)


def key(root: Path, *assignments: str, beside: tuple[object, ...] = (1,)) -> str:
    return Keys(root).key(compose(root, "smoke", list(assignments)), STAGE, list(beside))


def test_what_decides_a_run_is_in_its_key(root: Path) -> None:
    plain = key(root)
    assert plain == key(root) == key(root, "rl.steps=3", "quantize.method.group=32")  # after the measure
    others = [
        key(root, "pretrain.clip=0.5"),
        key(root, "seed=1"),
        key(root, "ingest.max_bytes=300000"),
        key(root, "pretrain.optimizer={name: lion}"),
        key(root, beside=(2,)),
    ]
    assert len({plain, *others}) == 6


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("lm/optimizers/muon.py", True),  # chosen
        ("lm/model.py", True),
        ("tasks/evaluate/bits_per_byte.py", True),
        ("lm/optimizers/lion.py", False),  # another method
        ("tasks/rl/stage.py", False),  # after the measure
        ("flows/arena/race.py", False),
        ("README.md", False),
    ],
)
def test_code_counts_where_a_stage_up_to_the_measure_has_it(root: Path, name: str, counts: bool) -> None:
    before, path = key(root), root / name
    text = path.read_text()
    path.write_text(text + "\n# another\n")
    try:
        assert (key(root) != before) == counts
    finally:
        path.write_text(text)
