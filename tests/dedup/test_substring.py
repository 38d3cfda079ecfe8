"""Repeated substrings: cases worked by hand, and brute force."""

import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.log import Log
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.engine.sorted_keys import grouped
from tasks.dedup.methods.substring import Substring
from tests.dedup.tables import documents_of, left_of, same
from tests.forks.work import share_among_two

BOUNDED = settings(deadline=None, max_examples=30, derandomize=True)
WORDS = st.lists(st.lists(st.sampled_from("ab"), max_size=14).map(" ".join), max_size=6)
CHARACTERS = st.lists(st.text(st.sampled_from("aä"), max_size=12), max_size=6)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


def found_in(texts: list[str], method: Substring, cuts: tuple[int, ...] = (), group: int = 4096) -> DedupResult:
    with tempfile.TemporaryDirectory() as folder:
        return method(documents_of(Path(folder) / "table", texts, cuts, group), Path(folder), Log())


def covered_tokens(documents: list[list], size: int, keep_first: bool) -> list[list[bool]]:
    """Brute force: of every window, what comes after its first occurrence, or all where it occurs twice."""
    windows = [(d, t, tuple(doc[t : t + size])) for d, doc in enumerate(documents) for t in range(len(doc) - size + 1)]
    covered = [[False] * len(doc) for doc in documents]
    equal: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for d, t, window in windows:
        equal[window].append((d, t))
    for d, t, window in windows:
        first_d, first_t = equal[window][0]
        if len(equal[window]) < 2 or (keep_first and (d, t) == (first_d, first_t)):
            continue
        begin = max(t, first_t + size) if keep_first and first_d == d else t
        covered[d][begin : t + size] = [True] * (t + size - begin)
    return covered


@BOUNDED
@given(WORDS, st.integers(1, 5), st.booleans())
def test_words_against_brute_force(texts: list[str], size: int, keep_first: bool) -> None:
    found = found_in(texts, Substring(min_tokens=size, keep_first=keep_first))
    covered = covered_tokens([text.split() for text in texts], size, keep_first)
    for text, left, cut in zip(texts, left_of(texts, found), covered, strict=True):
        words = [word for word, gone in zip(text.split(), cut, strict=True) if not gone]
        assert (left.split() if left is not None else []) == words
        assert (left is None) == bool(text and not words)


@BOUNDED
@given(CHARACTERS, st.integers(1, 5), st.booleans())
def test_bytes_against_brute_force_in_whole_characters(texts: list[str], size: int, keep_first: bool) -> None:
    found = found_in(texts, Substring(min_tokens=size, unit="bytes", keep_first=keep_first))
    covered = covered_tokens([list(text.encode()) for text in texts], size, keep_first)
    for text, left, cut in zip(texts, left_of(texts, found), covered, strict=True):
        kept, at = "", 0
        for character in text:  # it goes when all its bytes are in one run of covered ones
            width = len(character.encode())
            kept += "" if all(cut[at : at + width]) else character
            at += width
        assert (left or "") == kept


@BOUNDED
@given(WORDS, st.lists(st.integers(0, 6), max_size=4), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_shards_and_row_groups_leave_no_trace(texts, cuts, group, size, keep_first) -> None:
    method = Substring(min_tokens=size, keep_first=keep_first)
    assert same(found_in(texts, method), found_in(texts, method, tuple(cuts), group))


def test_a_repeated_span_stays_where_it_stood_first() -> None:
    texts = ["p q one two three four r s", "t one two three four u", "v w"]
    left = left_of(texts, found_in(texts, Substring(min_tokens=3)))
    assert left == [texts[0], "t u", "v w"]
    both = left_of(texts, found_in(texts, Substring(min_tokens=3, keep_first=False)))
    assert both == ["p q r s", "t u", "v w"]
    assert left_of(texts, found_in(texts, Substring(min_tokens=5))) == texts


def test_a_repeat_inside_one_document() -> None:
    text = "a b c d x a b c y"
    assert left_of([text], found_in([text], Substring(min_tokens=3))) == ["a b c d x y"]


def test_of_a_run_its_first_window_stays() -> None:
    assert left_of(["a a a a a a"], found_in(["a a a a a a"], Substring(min_tokens=3))) == ["a a a "]
    # period two: `a b a` stood at 0 and goes from token 3 on where it stands at 2, 4; `b a b` stood at 1
    assert left_of(["a b a b a b a b c"], found_in(["a b a b a b a b c"], Substring(min_tokens=3))) == ["a b a c"]


def test_overlapping_repeats_of_two_documents_join_to_one_cut() -> None:
    texts = ["a b c d", "c d e f", "x a b c d e f y"]
    found = found_in(texts, Substring(min_tokens=2))
    assert left_of(texts, found) == ["a b c d", "e f", "x y"]
    assert len(found.cuts_K3[found.cuts_K3[:, 0] == 2]) == 1


def test_a_document_wholly_repeated_goes_whatever_its_white_space() -> None:
    texts = ["one two three\n", "  one\ttwo\u00a0three ", "", " \n", "one two"]
    found = found_in(texts, Substring(min_tokens=3))
    assert left_of(texts, found) == [texts[0], None, "", " \n", "one two"]
    assert found.first_N.tolist() == [0, 1, 2, 3, 4] and not len(found.cuts_K3)


def test_the_ends_of_documents_end_spans() -> None:
    texts = ["a b", "c d", "a b c d"]
    assert left_of(texts, found_in(texts, Substring(min_tokens=3))) == texts


def test_rows_that_are_gone_hold_nothing(tmp_path: Path) -> None:
    texts = ["a b c", "a b c", "a b c x"]
    documents = documents_of(tmp_path / "table", texts, (1,))
    found = Substring(min_tokens=3)(Documents(documents.table, np.array([False, True, True])), tmp_path, Log())
    assert found.keep_N.tolist() == [False, True, True] and left_of(texts, found) == [None, "a b c", "x"]


def test_white_space_is_what_python_takes_for_it() -> None:
    from tasks.dedup.engine.compiled_spans import space_at

    for code in (c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000 and (c < 0x3100 or c % 97 == 0)):
        data = np.frombuffer(chr(code).encode(), dtype=np.uint8)
        assert space_at(data, 0, len(data)) == (len(data) if chr(code).isspace() else 0), hex(code)


def corpus(seed: int) -> list[str]:
    """Documents of random words with planted spans of 20 to 80, and pages of one word again and again."""
    rng = random.Random(seed)
    spans = [[f"s{rng.randrange(400)}" for _ in range(rng.randrange(20, 80))] for _ in range(8)]
    texts = []
    for _ in range(60):
        words = [f"w{rng.randrange(3000)}" for _ in range(rng.randrange(150))]
        place = rng.randrange(len(words) + 1)
        texts.append(" ".join(words[:place] + (rng.choice(spans) if rng.random() < 0.5 else []) + words[place:]))
    return [*texts, " ".join(["same"] * 500), " ".join(["same", "words"] * 300)]


def test_memory_and_workers_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, method = corpus(1), Substring(min_tokens=20)
    whole = found_in(texts, method)
    covered = covered_tokens([text.split() for text in texts], 20, True)
    kept = [
        [word for word, gone in zip(t.split(), cut, strict=True) if not gone]
        for t, cut in zip(texts, covered, strict=True)
    ]
    assert [(left or "").split() for left in left_of(texts, whole)] == kept and len(whole.cuts_K3) > 10
    with pytest.MonkeyPatch.context() as patched:
        share_among_two(patched)
        assert same(whole, found_in(texts, method, (10, 30), 7))
    monkeypatch.setattr("tasks.dedup.engine.sorted_keys.memory_budget", lambda: 40_000)
    monkeypatch.setattr("tasks.dedup.methods.substring.WINDOWS_AT_ONCE", 64)
    monkeypatch.setattr("tasks.dedup.methods.substring.MARKED_AT_ONCE", 16)
    assert same(whole, found_in(texts, method, (10, 30), 7))


def test_a_killed_run_goes_on_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, method = corpus(2), Substring(min_tokens=20)
    documents, log = documents_of(tmp_path / "table", texts, (20, 40)), Log()
    log.parts = tmp_path / "parts"
    from tasks.dedup.methods import substring

    made, write_cuts = [], substring.write_cuts

    def killed(piece: substring.Piece, folder: Path) -> dict:
        if made:
            raise KeyboardInterrupt
        made.append(piece.number)
        return write_cuts(piece, folder)

    monkeypatch.setattr(substring, "write_cuts", killed)
    with pytest.raises(KeyboardInterrupt):
        method(documents, tmp_path, log)
    monkeypatch.setattr(substring, "write_cuts", write_cuts)
    times = {path: path.stat().st_mtime_ns for path in log.parts.rglob("facts.json")}
    assert same(method(documents, tmp_path, log), found_in(texts, method))
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()) and len(times) == 9


def test_keys_that_differ_in_their_second_half_alone_are_two() -> None:
    high, low = np.array([5, 1, 5, 5], dtype=np.uint64), np.array([9, 0, 2, 9], dtype=np.uint64)
    order, new = grouped(high, low)
    assert order.tolist() == [1, 2, 0, 3] and new.tolist() == [True, True, True, False]
