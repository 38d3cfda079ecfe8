"""The compiled statistics are those of the plain Python, on any text, however texts are batched and on any number of threads."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.filter.engine.compiled_statistics import Column
from tasks.filter.engine.statistics import Statistics
from tasks.filter.methods.fineweb import count_lines
from tests.filter.documents import GOOD, texts
from tests.filter.reference import fineweb_lines_of, statistics_of

WITHOUT_REPETITION = range(Column.PIECES)


def table_of(documents: list[str], definitions: str) -> np.ndarray:
    return Statistics(pa.array(documents, pa.large_string()), definitions).table(repetition=True)


@pytest.mark.parametrize("definitions", ["paper", "datatrove"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(texts, min_size=1, max_size=4))
def test_compiled_equals_plain(definitions: str, documents: list[str]) -> None:
    table = table_of(documents, definitions)
    for row, text in enumerate(documents):
        assert {column.name: int(table[row, column]) for column in Column} == statistics_of(text, definitions)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(texts)
def test_lines_of_fineweb(text: str) -> None:
    assert tuple(count_lines(pa.array([text], pa.large_string()), 5)[0]) == fineweb_lines_of(text, 5)


@pytest.mark.parametrize("definitions", ["paper", "datatrove"])
def test_batches_slices_and_threads_change_nothing(definitions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [GOOD[: 37 * n] + "\n" * (n % 3) for n in range(12)] + ["", "\N{GRINNING FACE}" * 9]
    whole = table_of(documents, definitions)
    assert (np.concatenate([table_of([text], definitions) for text in documents]) == whole).all()
    texts = pa.array(["before", *documents, "after"], pa.large_string()).slice(1, len(documents))
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("TOKENMILL_THREADS", threads)
        assert (Statistics(texts, definitions).table(repetition=True) == whole).all()


def test_what_is_asked_without_repetition_is_the_same() -> None:
    texts = pa.array([GOOD, GOOD * 2], pa.large_string())
    statistics = Statistics(texts, "paper")
    assert (
        statistics.table() == np.where(np.arange(len(Column)) < Column.PIECES, table_of(texts.to_pylist(), "paper"), 0)
    ).all()
    assert (statistics.table(repetition=True) == table_of(texts.to_pylist(), "paper")).all()


def test_by_hand() -> None:
    row = table_of(["a b a b a b c\n\nc d\n\n\nc d"], "paper")[0]
    assert row[Column.WORDS] == 11 and row[Column.LINES] == 3 and row[Column.CHARACTERS] == 24
    assert row[Column.REPEATED_PARAGRAPHS] == 1 and row[Column.REPEATED_PARAGRAPH_CHARACTERS] == 3
    assert row[Column.TOP_2] == 6  # "a b" three times, 2 characters each
    assert row[Column.TOP_3] == 6  # "a b a" twice, 3 characters each
    row = table_of(["p q r s t x p q r s t u p q r s t u"], "paper")[0]
    assert row[Column.GRAM_5] == 11  # words 7 to 11 repeat the first five, 13 to 18 those and what follows
    assert row[Column.GRAM_6] == 6 and row[Column.GRAM_7] == 0
    row = table_of(["p q r s t x p q r s t u p q r s t u"], "datatrove")[0]
    assert row[Column.GRAM_5] == 10  # after a repeated 5-gram the next begins behind it


def test_a_document_of_16_mb() -> None:
    text = (GOOD + "\n") * 2500 + "x(" * 7_000_000 + "\n" + "(" * 1_000_000
    table = table_of(["short", text], "datatrove")
    assert (
        table[1, Column.CHARACTERS] == len(text) and table[1, Column.WORDS] == 65 * 2500 + 1 + 1_000_000
    )  # a run over 1 MiB is one word
    assert table[0, Column.WORDS] == 1
