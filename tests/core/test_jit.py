"""What is kept of compiled code is found again through links, and not when any of its files has changed; and compiled code
frees what it allocates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import NumbaError

from tasks.core.jit import compiled
from tests.compiled import count_leaked_arrays
from tests.project import ROOT

ASKED = "import numba, tasks.filter.engine.compiled_grams as grams; print(numba.config.CACHE_DIR, grams.place_of.py_func.__code__.co_filename)"


def asked(folder: Path) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", ASKED], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()


def test_links_share_and_changes_do_not(tmp_path: Path) -> None:
    for name in ("linked", "changed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lm").symlink_to(ROOT / "lm")
    (tmp_path / "linked" / "tasks").symlink_to(ROOT / "tasks")
    here = asked(ROOT)
    assert asked(tmp_path / "linked") == here
    shutil.copytree(ROOT / "tasks", tmp_path / "changed" / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    before = asked(tmp_path / "changed")
    assert Path(before[0]).name == Path(here[0]).name
    for changed in ("filter/engine/compiled_words.py", "core/jit.py"):
        with (tmp_path / "changed" / "tasks" / changed).open("a") as file:
            file.write("# another\n")
        after = asked(tmp_path / "changed")
        assert before[1] == after[1] and before[0] != after[0]
        before = after


COMPILED = """
from tasks.core.compiled_for_this_test import doubled
doubled(3)
print(sum(doubled.stats.cache_hits.values()), doubled(3))
"""
DOUBLED = """
from tasks.core.jit import compiled

@compiled
def doubled(number):
    return {} * number
"""


def test_another_checkout_takes_what_one_has_compiled_of_the_same_code(tmp_path: Path) -> None:
    def hits(checkout: str, factor: int) -> list[str]:
        core = tmp_path / checkout / "tasks" / "core"
        core.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tasks" / "core" / "jit.py", core / "jit.py")
        (core / "compiled_for_this_test.py").write_text(DOUBLED.format(factor))
        # bytecode is told from another's by seconds and length, and both factors have one digit
        unkept = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
        surroundings = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), **unkept}
        command = [sys.executable, "-c", COMPILED]
        folder = tmp_path / checkout
        done = subprocess.run(command, cwd=folder, env=surroundings, check=True, capture_output=True, text=True)
        return done.stdout.split()

    assert hits("one", 2) == ["0", "6"]
    assert hits("other", 2) == ["1", "6"]
    assert hits("other", 5) == ["0", "15"]


@compiled(makes_arrays=True)
def made(count):
    return np.zeros(count)


def test_arrays_that_are_made_are_declared() -> None:
    @compiled
    def undeclared(count):
        return np.zeros(count)

    with pytest.raises(NumbaError, match="NRT required|Only accept returning of array"):
        undeclared(3)


def test_what_is_never_freed_is_seen() -> None:
    @compiled
    def undeclared(count):
        return made(count)[0]

    @compiled(makes_arrays=True)
    def declared(count):
        return made(count)[0]

    assert count_leaked_arrays(lambda: undeclared(3), times=5) == 5
    assert count_leaked_arrays(lambda: declared(3), times=5) == 0
