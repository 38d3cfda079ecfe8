"""What is told of a changed document: the same as Python's slices of its characters."""

import json
from itertools import takewhile

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.filter.changes import BEFORE_CHANGE, CHANGED, EXCERPT, rows_of_changed
from tests.compiled import count_leaked_arrays

# Characters of one to four bytes, some of which begin with the same bytes as others; long runs, as excerpts have their limits.
letters = st.sampled_from(
    ["a", "b", "\xe9", "\xea", "\u20ac", "\u20ad", "\U0001f600", "\U0001f601", "c" * 1999, "\xe9" * 200]
)
texts = st.lists(letters, max_size=6).map("".join)


def changed(pairs: list[tuple[str, str]], counts: list[int], stays: list[bool], skipped: int = 0) -> list[dict]:
    """The rows of texts before and after, of which the first `skipped` are in the columns' memory alone."""
    names = [f"d{row}" for row in range(len(pairs))]
    before, after = (pa.array([pair[side] for pair in pairs], pa.large_string()) for side in (0, 1))
    rows = pa.record_batch([pa.array(names), pa.array(names), before], names=["id", "source", "text"]).slice(skipped)
    counted = {"taken": np.array(counts[skipped:]), "masked": np.array(counts[skipped:]) * 2}
    found = rows_of_changed(rows, after.slice(skipped), counted, np.array(stays[skipped:], bool))
    found.validate(full=True)
    assert found.schema == CHANGED
    return found.to_pylist()


def expected(pairs: list[tuple[str, str]], counts: list[int], stays: list[bool], skipped: int = 0) -> list[dict]:
    found = []
    for row in range(skipped, len(pairs)):
        before, after = pairs[row]
        if before == after or not stays[row]:
            continue
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        start = max(0, same - BEFORE_CHANGE)
        told = {"masked": counts[row] * 2, "taken": counts[row]} if counts[row] else {}
        excerpts = {"before": before[start : start + EXCERPT], "after": after[start : start + EXCERPT]}
        found.append({"id": f"d{row}", "source": f"d{row}", "counts": json.dumps(told), **excerpts})
    return found


@settings(deadline=None, max_examples=120, derandomize=True)
@given(st.lists(st.tuples(texts, texts, texts, st.integers(0, 2), st.booleans()), max_size=6), st.integers(0, 3))
def test_excerpts_begin_before_the_first_character_that_differs(made, skipped: int) -> None:
    pairs = [(shared + one, shared + other) for shared, one, other, _, _ in made]
    given_rows = pairs, [count for *_, count, _ in made], [stays for *_, stays in made], min(skipped, len(made))
    assert changed(*given_rows) == expected(*given_rows)


def test_compiled_code_frees_what_it_makes() -> None:
    assert count_leaked_arrays(lambda: changed([("one", "other"), ("a" * 5000, "b")], [1, 0], [True, True])) == 0
