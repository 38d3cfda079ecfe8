"""MinHash as a whole: planted pairs against brute force, the same whatever the shards, and a memo that changes nothing."""

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tasks.core.log import Log
from tasks.dedup.methods import Minhash
from tasks.ingest.sources import Stdlib
from tasks.ingest.sources.base import Record
from tests.dedup.made import Rows, found_by, recut, rows_of
from tests.forks.work import share_among_two

KINDS = ("insertion", "deletion", "substitution", "truncation")


def edited(words: list[str], rng: random.Random, kind: str) -> list[str]:
    place = rng.randrange(len(words))
    if kind == "truncation":
        return words[: int(len(words) * 0.9)]
    return [*words[:place], *([] if kind == "deletion" else ["new"]), *words[place + (kind != "insertion") :]]


def planted(kind: str) -> list[str]:
    """60 texts and then an edited copy of each."""
    rng = random.Random(kind)
    originals = [[f"w{rng.randrange(5000)}" for _ in range(120)] for _ in range(60)]
    return [" ".join(words) for words in [*originals, *(edited(words, rng, kind) for words in originals)]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shingles", ["words", "characters"])
def test_planted_near_duplicates_against_brute_force(kind: str, shingles: str) -> None:
    documents = planted(kind)
    size = 5 if shingles == "words" else 12
    units = [text.split() if shingles == "words" else list(text) for text in documents]
    sets = [set(zip(*(unit[i:] for i in range(size)), strict=False)) for unit in units]
    exact = {(i, j) for i, j in combinations(range(120), 2) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.7}
    assert exact == {
        (i, i + 60) for i in range(60)
    }  # the construction: the pairs and nothing else is above the threshold
    found = found_by(Minhash(shingles=shingles, shingle_words=size), [rows_of(documents)]).first_N
    # verified candidates: precision is 1; at J >= 0.85 a pair shares no band with probability (1 - 0.85^6)^18 = 0.0002
    assert {(int(found[row]), row) for row in range(120) if found[row] != row} == exact


def test_the_threshold_decides_and_banding_alone_takes_more() -> None:
    words = [f"w{n}" for n in range(100)]
    documents = [" ".join(words), " ".join(words[:64])]  # 60 of 96 shingles: J = 0.625
    assert found_by(Minhash(threshold=0.62), [rows_of(documents)]).first_N.tolist() == [0, 0]
    assert found_by(Minhash(threshold=0.63), [rows_of(documents)]).first_N.tolist() == [0, 1]
    assert found_by(Minhash(threshold=1.0, verify=False), [rows_of(documents)]).first_N.tolist() == [0, 0]


SIGNS = {"Devanagari": (0x915, 0x93E), "Bengali": (0x995, 0x9BE), "Tamil": (0xBAE, 0xBBE), "Malayalam": (0xD15, 0xD3E)}


@pytest.mark.parametrize("script", SIGNS)
def test_vowel_signs_are_part_of_their_words(script: str) -> None:
    """Texts of the same consonants and other vowels are other texts; one word changed leaves near duplicates."""
    letter, sign = SIGNS[script]
    rng = random.Random(script)
    skeleton = [[rng.randrange(4) for _ in range(3)] for _ in range(120)]

    def written() -> str:
        return " ".join("".join(chr(letter + c) + chr(sign + rng.randrange(3)) for c in word) for word in skeleton)

    first, second = written(), written()
    changed = " ".join([*first.split()[:60], chr(letter), *first.split()[61:]])
    assert found_by(Minhash(), [rows_of([first, second, changed])]).first_N.tolist() == [0, 1, 0]


@pytest.mark.parametrize("first_letter", [0x4E00, 0x3042, 0xE01], ids=["Chinese", "Hiragana", "Thai"])
def test_scripts_without_spaces_are_compared_by_their_characters(first_letter: int) -> None:
    rng = random.Random(first_letter)
    letters = [chr(first_letter + rng.randrange(40)) for _ in range(300)]
    other = [chr(first_letter + rng.randrange(40)) for _ in range(300)]
    changed = [*letters[:150], *other[150:160], *letters[160:]]
    documents = ["".join(each) for each in (letters, other, changed)]
    assert found_by(Minhash(), [rows_of(documents)]).first_N.tolist() == [0, 1, 0]


def mixture() -> Rows:
    documents = (
        planted("substitution")
        + ["", " . ", "one", "one two", "One, two!", "\xe9t\xe9 \u4e2d\u6587"]
        + ["many copies of this"] * 60
    )
    random.Random(4).shuffle(documents)
    return rows_of(documents)


@pytest.mark.parametrize(
    ("edges", "environment"),
    [
        ((93,), {}),
        ((0, 1, 60, 61, 186), {"TOKENMILL_THREADS": "2"}),
        ((40, 120), {"TOKENMILL_MEMORY": "1"}),
        ((60,), None),
    ],
)
def test_the_same_whatever_shards_workers_threads_and_memory(
    monkeypatch: pytest.MonkeyPatch, edges: tuple[int, ...], environment: dict[str, str] | None
) -> None:
    """None: with two workers."""
    rows = mixture()
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")
    monkeypatch.setenv("TOKENMILL_THREADS", "1")
    alone = found_by(Minhash(), [rows])
    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)
    if environment is None:
        share_among_two(monkeypatch)
    again = found_by(Minhash(), recut(rows, *edges))
    assert (alone.first_N == again.first_N).all() and (alone.keep_N == again.keep_N).all()
    assert 60 + 59 + 1 + 1 <= len(rows) - alone.keep_N.sum() <= 60 + 59 + 2


class MemoLog(Log):
    """A log that keeps facts and has a memo."""

    def __init__(self, memo: Path) -> None:
        self.memo = memo
        self.facts: dict[str, float] = {}

    def fact(self, **values: float) -> None:
        self.facts.update(values)


def test_new_documents_alone_are_signed_again_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")
    rows = mixture()
    fewer = [row for number, row in enumerate(rows) if number % 7]
    new = len(rows) - len(fewer)
    first, second = MemoLog(tmp_path), MemoLog(tmp_path)
    found_by(Minhash(), [fewer], log=first)
    assert first.facts["signatures_made"] == len(fewer) and first.facts["signatures_known"] == 0
    found = found_by(Minhash(), recut(rows, 70), log=second)
    known_texts = {text for _, text in fewer}
    made = sum(text not in known_texts for _, text in rows)
    assert 0 < made <= new
    assert (second.facts["signatures_made"], second.facts["signatures_known"]) == (made, len(rows) - made)
    whole = found_by(Minhash(), [rows])
    assert (found.first_N == whole.first_N).all() and (found.keep_N == whole.keep_N).all()


@pytest.mark.parametrize("damage", ["cut", "noise", "one bit", "empty", "other shape"])
def test_a_broken_memo_changes_nothing(tmp_path: Path, damage: str) -> None:
    rows = rows_of(planted("insertion"))
    found_by(Minhash(), [rows], log=MemoLog(tmp_path))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "noise":
        path.write_bytes(random.Random(0).randbytes(len(data)))
    elif damage == "one bit":
        data[-20] ^= 4
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.zeros((3, 3)))
    log = MemoLog(tmp_path)
    again = found_by(Minhash(), [rows], log=log)
    assert log.facts["signatures_made"] == (1 if damage == "one bit" else len(rows))
    assert (again.first_N == found_by(Minhash(), [rows]).first_N).all()
    mended = MemoLog(tmp_path)
    found_by(Minhash(), [rows], log=mended)
    assert mended.facts["signatures_made"] == 0  # it was made anew


def test_the_near_identical_codec_modules_are_found() -> None:
    """With the three-word shingles of the default parameters: in a file of 40 lines, a name that changes in four places
    spoils 20 of 90 five-word shingles (J = 0.68), but 12 three-word ones (J = 0.78)."""
    found = {r.id.split(":")[1]: r for r in Stdlib(max_document_bytes=20_000).rows() if isinstance(r, Record)}
    names = [name for name in found if name.startswith("encodings/")]
    records = [found[name] for name in names]
    first = found_by(Minhash(shingle_words=3), [rows_of([r.text for r in records])]).first_N
    joined = {names[row]: names[first[row]] for row in range(len(names)) if first[row] != row}
    # modules that differ in a name alone: one of each family stays
    for family in ("euc_j", "iso2022_"):
        members = [name for name in names if name.startswith(f"encodings/{family}")]
        assert len(members) > 1 and sum(name not in joined for name in members) <= 1, (family, members)
    assert "encodings/utf_8.py" not in joined and len(joined) >= 20
