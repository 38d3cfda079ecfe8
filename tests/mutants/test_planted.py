"""The planted bugs themselves: enough of them, of every kind and in every room, and each can still be planted.

`make mutants` plants them.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tasks.runner.graph import read_graph
from tests.mutants.mutant import CAUGHT, KINDS, Mutant, read_mutants
from tests.project import ROOT

MUTANTS = read_mutants()


@pytest.mark.parametrize("room", sorted({mutant.room for mutant in MUTANTS}))
def test_can_be_planted_and_changes_something(room: str) -> None:
    assert [line for mutant in MUTANTS if mutant.room == room for line in problems(mutant)] == []


def problems(mutant: Mutant) -> Iterator[str]:
    """Why a bug cannot be planted, is none or is no Python, each a line."""
    if problem := mutant.problem(ROOT):
        yield problem
        return
    if mutant.find == mutant.put:
        yield f"{mutant}: changes nothing"
    try:
        compile((ROOT / mutant.file).read_text().replace(mutant.find, mutant.put), mutant.file, "exec")
    except SyntaxError as error:
        yield f"{mutant}: {error}"


def test_eighty_at_least_of_every_kind_and_four_of_a_stage_that_has_any() -> None:
    names = Counter(str(mutant) for mutant in MUTANTS)
    assert len(MUTANTS) >= 80 and max(names.values()) == 1
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)
    rooms, stages = Counter(mutant.room for mutant in MUTANTS), {entry.name for entry in read_graph(ROOT).values()}
    assert {room: count for room, count in rooms.items() if room in stages and count < 4} == {}


def test_a_bug_that_no_longer_fits_is_said() -> None:
    first = MUTANTS[0]
    gone = Mutant(first.name, first.room, first.kind, first.file, "is nowhere in it", "x", first.tests)
    assert "stands 0 times" in (gone.problem(ROOT) or "")
    assert list(problems(replace(first, put=first.find))) == [f"{first}: changes nothing"]
    assert len(list(problems(replace(first, put="(")))) == 1
    assert "no kind" in (
        Mutant(first.name, first.room, "odd", first.file, first.find, "x", first.tests).problem(ROOT) or ""
    )


def test_what_caught_a_bug_is_kept_of_bugs_and_tests_that_are_there() -> None:
    kept = json.loads(CAUGHT.read_text())
    assert set(kept) <= {str(mutant) for mutant in MUTANTS}
    assert [test for test in kept.values() if not (ROOT / test.partition("::")[0]).is_file()] == []


@pytest.mark.parametrize("mutant", MUTANTS[::17], ids=str)
def test_its_files_are_all_that_its_tests_name(mutant: Mutant) -> None:
    files = mutant.files(ROOT)
    assert len(set(files)) == len(files) > 0 and all((ROOT / name.partition("::")[0]).is_file() for name in files)
    for test in mutant.tests:
        assert any(name == test or name.startswith(f"{test}/") for name in files)
