"""Texts that are alike, by the words or the groups of letters that they share. N documents."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

WORD = re.compile(r"\w+|[^\w\s]")
# As in Lucene and in most reports of BM25
K1, B = 1.2, 0.75

Counts = Mapping[str, float]


def words(text: str) -> Counter[str]:
    """How often each word, number or mark stands in a text, whatever its case."""
    return Counter(WORD.findall(text.casefold()))


def trigrams(text: str) -> Counter[str]:
    """How often each three characters in a row stand in a text between two spaces, whatever their case."""
    padded = f" {text.casefold()} "
    return Counter(padded[n : n + 3] for n in range(len(padded) - 2))


def bm25(documents: Sequence[Counts]) -> list[dict[str, float]]:
    """Weight of each term in each document: idf f (k1 + 1) / (f + k1 (1 - b + b l / mean l)), where f is how often it stands
    there and l the terms of the document (Robertson & Zaragoza 2009, section 3.4); idf = ln(1 + (N - n + 1/2) / (n + 1/2)) for
    n documents that have it, which is never negative (Lucene's form)."""
    N, having = len(documents), Counter(term for document in documents for term in document)
    idf = {term: math.log(1 + (N - n + 0.5) / (n + 0.5)) for term, n in having.items()}
    lengths = [sum(document.values()) for document in documents]
    mean = sum(lengths) / N if N else 1.0
    return [
        {term: idf[term] * f * (K1 + 1) / (f + K1 * (1 - B + B * length / mean)) for term, f in document.items()}
        for document, length in zip(documents, lengths, strict=True)
    ]


def normed(documents: Sequence[Counts]) -> list[dict[str, float]]:
    """Counts of each document divided by their Euclidean norm, so that scores are in the order of the cosine."""
    norms = [math.sqrt(sum(count * count for count in document.values())) or 1.0 for document in documents]
    return [
        {term: count / norm for term, count in document.items()}
        for document, norm in zip(documents, norms, strict=True)
    ]


class Index:
    """Documents by their terms, so that a query costs what its terms have and not what all documents do."""

    def __init__(self, documents: Sequence[Counts]) -> None:
        self._documents = len(documents)
        postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, document in enumerate(documents):
            for term, weight in document.items():
                postings[term].append((number, weight))
        self._postings = {
            term: (np.array([n for n, _ in found]), np.array([w for _, w in found])) for term, found in postings.items()
        }

    def scores(self, query: Counts) -> np.ndarray:
        """scores_N: the sum over the query's terms of how often it has each, times the term's weight in a document."""
        scores_N = np.zeros(self._documents)
        for term, count in query.items():
            if term in self._postings:
                numbers, weights = self._postings[term]
                scores_N[numbers] += count * weights
        return scores_N
