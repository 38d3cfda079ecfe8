"""What the rules ask about texts, as tables of a row a text; counted once for all rules, on as many threads as there are."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pyarrow as pa

from tasks.core.process import threads
from tasks.core.texts import text_buffers
from tasks.filter.engine.words import tables
from tasks.filter.rule import Batch

# "paper": words are what white space divides, and the rules are counted as Rae et al. describe them. "datatrove": words are
# those of spaCy's English tokenizer, and everything is counted as the filters of datatrove 0.10 count.
Definitions = Literal["paper", "datatrove"]
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


class Statistics:
    """The table of N texts, columns as in compiled_statistics.Column; those of repetition only where they were asked for."""

    def __init__(self, texts: pa.LargeStringArray, definitions: Definitions) -> None:
        self._texts, self._paper = texts, definitions == "paper"
        self._table: np.ndarray | None = None
        self._has_repetition = False

    def table(self, repetition: bool = False) -> np.ndarray:
        """(N, columns) int64. Asking for repetition first saves a pass over the text."""
        from tasks.filter.engine.compiled_characters import hash_of
        from tasks.filter.engine.compiled_statistics import COLUMNS, count_all

        if self._table is None or (repetition and not self._has_repetition):
            stop_words = [np.frombuffer(word.encode(), np.uint8) for word in STOP_WORDS]
            hashes = np.array([hash_of(word, 0, len(word)) for word in stop_words], np.uint64)
            self._table = np.zeros((len(self._texts), COLUMNS), np.int64)
            self._has_repetition = repetition

            def count(data: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> None:
                count_all(*tables(), data, offsets, self._paper, repetition, hashes, rows)

            over(self._texts, self._table, count)
        return self._table


def statistics(batch: Batch, definitions: Definitions) -> Statistics:
    """Statistics of a batch; the same ones for all the rules that ask."""
    return batch.cached(f"statistics of {definitions}", lambda texts: Statistics(texts, definitions))


def over(
    texts: pa.LargeStringArray, table: np.ndarray, work: Callable[[np.ndarray, np.ndarray, np.ndarray], None]
) -> None:
    """work(bytes, offsets, rows of the table) over spans of texts of about as many bytes, a thread each. Which text is in
    which span changes nothing."""
    data, offsets = text_buffers(texts)
    marks = np.linspace(offsets[0], offsets[-1], threads() + 1)[1:-1]
    cuts = [0, *np.searchsorted(offsets, marks).tolist(), len(texts)]
    spans = [
        (data, offsets[first : last + 1], table[first:last])
        for first, last in zip(cuts, cuts[1:], strict=False)
        if first < last
    ]
    if len(spans) < 2:
        for span in spans:
            work(*span)
        return
    with ThreadPoolExecutor(len(spans) - 1) as pool:
        others = [pool.submit(work, *span) for span in spans[1:]]
        work(*spans[0])
        for other in others:
            other.result()
