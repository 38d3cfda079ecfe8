"""A dvc.lock cut off anywhere keeps the stages before the cut, and one that is whole stays as it is."""

import re
from pathlib import Path
from typing import Any

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.staleness.heal import cut_back, is_whole
from lm.config import ConfigError
from tasks.core.yaml import parse_yaml
from tasks.runner.lock import read_lock
from tests.project import ROOT

WHOLE = (ROOT / "dvc.lock").read_text()
STAGES = read_lock(ROOT / "dvc.lock")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, len(WHOLE)))
def test_what_is_left_are_whole_stages_in_their_order(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    left = left_of(tmp_path_factory.mktemp("cut"), cut)
    assert list(left) == list(STAGES)[: len(left)] and len(left) >= len(STAGES) * cut // len(WHOLE) - 3
    assert all(left[name] == STAGES[name] for name in list(left)[:-1])


def test_wherever_the_outputs_of_the_last_stage_are_cut_what_is_left_of_them_is_true(tmp_path: Path) -> None:
    head, *stages = re.split(r"^(?=  \S)", WHOLE, flags=re.MULTILINE)
    text = head + stages[0] + stages[-1]  # an evaluation has a folder and files among its outputs
    first, last = next(iter(STAGES)), list(STAGES)[-1]
    within = re.compile("[0-9a-f]{7}")  # of a digest: wherever that is cut it is none
    for cut in range(text.rindex("    outs:"), len(text)):
        if within.fullmatch(text, cut - 3, cut + 4):
            continue
        left = left_of(tmp_path, cut, text)
        assert list(left) in ([first], [first, last]), cut
        outs = left.get(last, {"outs": []})["outs"]
        assert outs == STAGES[last]["outs"][: len(outs)], cut


def left_of(folder: Path, cut: int, whole: str = WHOLE) -> dict[str, Any]:
    """The stages that are left of a lock cut off there, which DVC's own schema takes, and which stays as it is then."""
    (folder / "dvc.lock").write_text(whole[:cut])
    said = cut_back(folder)
    if not (folder / "dvc.lock").exists():
        assert said.startswith("dvc.lock: not one stage")
        return {}
    COMPILED_LOCKFILE_SCHEMA(parse_yaml((folder / "dvc.lock").read_text()))
    assert cut_back(folder) == ""
    return read_lock(folder / "dvc.lock")


def test_a_whole_lock_is_left_alone(tmp_path: Path) -> None:
    assert is_whole(WHOLE) and cut_back(tmp_path) == ""
    (tmp_path / "dvc.lock").write_text(WHOLE)
    before = (tmp_path / "dvc.lock").stat().st_mtime_ns
    assert cut_back(tmp_path) == "" and (tmp_path / "dvc.lock").stat().st_mtime_ns == before


def test_zeros_that_a_crash_left_are_cut_off(tmp_path: Path) -> None:
    half = WHOLE.index("\n  tokenize:")
    (tmp_path / "dvc.lock").write_bytes(WHOLE[: half + 40].encode() + bytes(4096))
    assert cut_back(tmp_path) == "dvc.lock: was cut off; the 3 stages before that are kept, DVC's cache has the others"
    assert list(parse_yaml((tmp_path / "dvc.lock").read_text())["stages"]) == list(STAGES)[:3]


def test_a_merge_conflict_is_for_its_user_to_decide(tmp_path: Path) -> None:
    text = WHOLE.replace("  dedup:", "<<<<<<< HEAD\n  dedup:", 1)
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(ConfigError, match="merge conflict; take one side"):
        cut_back(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == text
