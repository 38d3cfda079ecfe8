"""Programs against unit tests: what passes is right, what cheats is wrong, and what the sandbox ends is no verdict."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.problems.canonical import canonical
from lm.problems.code import Code, program_of, read_test
from lm.problems.example import Example, Score
from lm.sandbox.run import run_program


def example(*tests: str) -> Example:
    pairs = [read_test(test, "p.jsonl:1") for test in tests]
    answer = json.dumps({"calls": [call for call, _ in pairs], "returns": [value for _, value in pairs]})
    return Example("", "", answer, "")


TESTS = ("assert add(1, 2) == 3", "assert add(b=0, a=-5) == -5", "assert [add(i, i) for i in range(3)] == [0, 2, 4]")
RIGHT = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    "program",
    [
        RIGHT,
        f"Here it is:\n```python\n{RIGHT}```\nIt adds.",
        f"```\nwrong\n```\nor rather\n```py\n{RIGHT}```",
        f"print('a line')\n{RIGHT}print(add(1, 1))",
        "add = lambda a, b: float(a + b)",
        "from operator import add as plus\ndef add(a, b): return plus(a, b)",
    ],
)
def test_what_passes_is_right(program: str) -> None:
    assert Code().score(example(*TESTS), program) == Score(1.0)


ALL_EQUAL = "class All(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
WRONG = {
    "nothing": "",
    "another sum": "def add(a, b):\n    return a - b",
    "right once": "def add(a, b):\n    return 3",
    "no program": "def add(a, b) return a + b",
    "raises": f"{RIGHT}raise ValueError",
    "ends before the tests": f"{RIGHT}import sys\nsys.exit(0)",
    "ends at once": f"{RIGHT}import os\nos._exit(0)",
    "ends in a test": "import os\ndef add(a, b):\n    os._exit(0)",
    "equals everything": f"{ALL_EQUAL}def add(a, b):\n    return All(7)",
    "says it passed": "print('passed\\n3\\n-5')\ndef add(a, b):\n    return None",
    "writes to every file that is open": (
        "import os\nfor number in range(64):\n    try:\n        os.write(number, b'number 3\\n' * 3)\n    except OSError:\n        pass\n"
        "def add(a, b):\n    return None"
    ),
    "replaces what compares": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals['canonical'] = lambda *_: 'number 3'\n    frame = frame.f_back\n"
        "def add(a, b):\n    return None"
    ),
    "looks for the tests": (
        "import gc\nfound = [o for o in gc.get_objects() if isinstance(o, dict) and 'calls' in o]\n"
        "def add(a, b):\n    return found[0]['returns'][0]"
    ),
    "a fence that is not closed": f"```python\n{RIGHT}",
    "right in words": "add(1, 2) == 3",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_looks_right_and_is_wrong_is_zero(what: str) -> None:
    assert Code().score(example(*TESTS), WRONG[what]) == Score(0.0)


@pytest.mark.parametrize("program", ["while True: pass", f"{RIGHT}import sys\nwhile True: sys.stderr.write('x' * 999)"])
def test_what_the_sandbox_ends_is_no_verdict(program: str) -> None:
    assert Code(cpu_seconds=1).score(example(*TESTS), program) == Score(0.0, valid=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "solution": "s"}, "`tests` is None"),
        ({"question": "q", "solution": "s", "tests": []}, "`tests` is \\[\\]"),
        ({"question": "q", "solution": "s", "tests": [1]}, "`tests` is \\[1\\]"),
        ({"question": "q", "solution": " ", "tests": ["assert f() == 1"]}, "`solution` is blank"),
        ({"question": "q", "solution": "s", "tests": ["assert f()"]}, "is not `assert CALL == VALUE`"),
        ({"question": "q", "solution": "s", "tests": ["f() == 1"]}, "is not `assert CALL == VALUE`"),
        ({"question": "q", "solution": "s", "tests": ["assert f() != 1"]}, "is not `assert CALL == VALUE`"),
        ({"question": "q", "solution": "s", "tests": ["assert f() == g()"]}, "is not `assert CALL == VALUE`"),
        ({"question": "q", "solution": "s", "tests": ["assert f() == 1; x = 2"]}, "is not `assert CALL == VALUE`"),
        ({"question": "q", "solution": "s", "tests": ["assert f( == 1"]}, "is not `assert CALL == VALUE`"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=rf"p\.jsonl:1: .*{reason}"):
        Code(folder=str(tmp_path)).examples("sft")


def test_rows_of_mbpp_are_read(tmp_path: Path) -> None:
    row = {"text": "Add.", "code": RIGHT, "test_list": ["assert add(1, 2) == 3"], "task_id": 7, "test_setup_code": ""}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (found,) = [e for split in ("sft", "rl", "test") for e in Code(folder=str(tmp_path)).examples(split)]
    assert (found.prompt, found.demonstration) == ("Add.", RIGHT)
    assert Code().score(found, found.demonstration) == Score(1.0)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(0, 3) | st.text(max_size=2), inner, max_size=3)
        | st.sets(st.integers(0, 9), max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(one=values, other=values)
def test_texts_are_equal_as_values_are(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)
    assert canonical(one) == canonical(one)


def test_texts_of_equal_values_that_are_written_otherwise() -> None:
    assert canonical([1, 2.0, True]) == canonical([1.0, 2, 1]) != canonical((1, 2, 1))
    assert canonical({"a": 1, "b": {2, 3}}) == canonical({"b": frozenset([3, 2]), "a": 1.0})
    assert canonical("1") != canonical(1) and canonical(0.1 + 0.2) != canonical(0.3)
    for value in (object(), [1, object()], lambda: 1):
        with pytest.raises(ValueError, match="no value of"):
            canonical(value)
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    with pytest.raises(ValueError, match="too deep"):
        canonical(deep)


def test_the_last_whole_fence_is_the_program() -> None:
    assert program_of("a\n```python\nx\n```\n```\ny\n```") == "y\n"
    assert program_of("x = '```'") == "x = '```'" and program_of("") == ""


def test_a_sandbox_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run_program("print(1)")
    failed = type(outcome)("", "", None, "its sandbox was killed")
    monkeypatch.setattr("lm.sandbox.run.run_program", lambda *_: failed)
    assert Code().score(example(*TESTS), RIGHT) == Score(0.0, valid=False)
