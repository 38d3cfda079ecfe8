"""Documents with planted near-duplicates, made by code, and how well an implementation finds them."""

import math
import random
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from tasks.core.tables import shard_path, write_table

KINDS = ("insertion", "deletion", "substitution", "truncation")
SIZE = 5  # words of a shingle
MEAN_WORDS, SPREAD = 400, 0.8  # of a lognormal; 2.5 KB at 6 bytes a word
PLANTED = 0.3
LARGEST_FAMILY = 500
# A family has 89 copies in the mean, its size being 2 to 500 with a uniform logarithm; so often PLANTED of all are copies.
FAMILIES = PLANTED / (1 - PLANTED) / 89


@dataclass(frozen=True)
class Corpus:
    """Texts in random order; origin: for each the text it was made of, None for what was made of nothing, and by which edit."""

    texts: list[str]
    origin: list[int | None]
    kind: list[str | None]


def edited(words: list[str], similarity: float, kind: str, vocabulary: list[str], rng: random.Random) -> list[str]:
    """The words with as many edits as bring the Jaccard similarity of the shingle sets to about the one wanted: one that stands
    alone spoils 5 shingles (an insertion 4) and adds 5 (a deletion 4)."""
    if kind == "truncation":
        return words[: max(SIZE, round(len(words) * similarity))]
    lost, added = (4 if kind == "insertion" else 5), (4 if kind == "deletion" else 5)
    edits = max(1, round(len(words) * (1 - similarity) / (lost + added * similarity)))
    found = list(words)
    for place in sorted(rng.sample(range(len(words)), min(edits, len(words) - SIZE)), reverse=True):
        found[place : place + (kind != "insertion")] = [] if kind == "deletion" else [rng.choice(vocabulary)]
    return found


def make(documents: int, seed: int = 0) -> Corpus:
    """About 2.5 KB a document; 30% are copies with edits, at similarities of 0.60 to 0.98, in families of 2 to 500."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfw"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(50_000)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(vocabulary))))
    made: list[tuple[list[str], int | None, str | None]] = []
    while len(made) < documents:
        length = max(20, int(rng.lognormvariate(math.log(MEAN_WORDS) - SPREAD**2 / 2, SPREAD)))
        made.append((rng.choices(vocabulary, cum_weights=weights, k=length), None, None))
        if rng.random() < FAMILIES:
            original = len(made) - 1
            for _ in range(int(2 ** rng.uniform(1, math.log2(LARGEST_FAMILY + 1))) - 1):
                kind = rng.choice(KINDS)
                words = edited(made[original][0], rng.uniform(0.60, 0.98), kind, vocabulary, rng)
                made.append((words, original, kind))
    order = rng.sample(range(len(made)), len(made))
    place = {old: new for new, old in enumerate(order)}
    picked = [made[old] for old in order]
    texts = [" ".join(words) for words, *_ in picked]
    return Corpus(texts, [None if o is None else place[o] for _, o, _ in picked], [kind for *_, kind in picked])


def write(corpus: Corpus, table: Path) -> None:
    """Write a table of one shard, as ingest leaves it; ids are row numbers."""
    rows = len(corpus.texts)
    columns = {
        "id": pa.array([f"{row:08}" for row in range(rows)]),
        "source": pa.array(["planted"] * rows),
        "text": pa.array(corpus.texts, pa.large_string()),
        "meta": pa.array(["{}"] * rows),
    }
    write_table(shard_path(table, 0), pa.table(columns))


class Judge:
    """The exact similarities of a corpus, and what an implementation found of them."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._sets: dict[int, frozenset[tuple[str, ...]]] = {}
        self.pairs = [(o, row) for row, o in enumerate(corpus.origin) if o is not None]
        self._family: dict[int, list[int]] = {}
        for original, row in self.pairs:
            self._family.setdefault(original, [original]).append(row)

    def jaccard(self, left: int, right: int) -> float:
        """Jaccard similarity of two rows' sets of five-word shingles."""
        a, b = self._shingles(left), self._shingles(right)
        return len(a & b) / len(a | b)

    def _shingles(self, row: int) -> frozenset[tuple[str, ...]]:
        if row not in self._sets:
            words = self.corpus.texts[row].split()
            self._sets[row] = frozenset(zip(*(words[i:] for i in range(SIZE)), strict=False))
        return self._sets[row]

    def __call__(self, cluster: list[int]) -> dict[str, float]:
        """recall: of the planted pairs of a similarity of 0.8 or more, how many are in one cluster; also by edit.
        precision: of the rows that are not the first of their cluster, how many have 0.7 or more with another row of it."""
        found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        for original, row in self.pairs:
            if self.jaccard(original, row) >= 0.8:
                found[self.corpus.kind[row] or ""].append(together(cluster, original, row))
        gone = [row for row, first in enumerate(cluster) if first != row]
        right = sum(self._has_near(row, cluster) for row in gone)
        every = [each for kind in found.values() for each in kind]
        by_kind = {f"recall_{kind}": sum(each) / max(1, len(each)) for kind, each in found.items()}
        return {"recall": sum(every) / len(every), "precision": right / max(1, len(gone)), **by_kind, "gone": len(gone)}

    def _has_near(self, row: int, cluster: list[int]) -> bool:
        original = self.corpus.origin[row]
        family = self._family.get(row if original is None else original, [])
        return any(together(cluster, o, row) and self.jaccard(o, row) >= 0.7 for o in family if o != row)


def together(cluster: list[int], left: int, right: int) -> bool:
    """Whether two rows are in one cluster; -1 is that of a row of which only that it goes is known, and rows that are
    only known to have a duplicate share one."""
    return cluster[left] == cluster[right] or -1 in (cluster[left], cluster[right])
