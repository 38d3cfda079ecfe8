"""From an order to a stream of tokens, and from a stream to sequences cut out of it."""

from dataclasses import replace

import numpy as np

from tasks.curriculum.plan import FIRST_PREFIX, Documents, Draw, Order, Prefixes, Ranges, Stream, shuffled


def rounds(members: np.ndarray, lengths: np.ndarray, tokens: int, seed: int, draw: int = 0) -> np.ndarray:
    """Round after round through these documents, each in a random order of its own, until there are so many tokens.

    lengths: of all documents. draw: a number that tells random orders of one seed apart.
    """
    count = -(-tokens // int(lengths[members].sum()))
    order = np.concatenate([members[shuffled(len(members), seed, (draw << 40) + 2 * r)] for r in range(count)])
    return order[: reach(lengths[order], tokens)]


def reach(lengths: np.ndarray, tokens: int) -> int:
    """How many items, from the first on, have at least so many tokens; all when they have not."""
    return min(int(np.searchsorted(np.cumsum(lengths), tokens)) + 1, len(lengths))


def interleave(streams: list[np.ndarray], seed: int, draw: int) -> np.ndarray:
    """All streams as one, each in its own order, at places drawn at random."""
    labels = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    places = np.argsort(labels[shuffled(len(labels), seed, (draw << 40) + 1)], kind="stable")
    found = np.empty(len(labels), dtype=np.int64)
    found[places] = np.concatenate(streams)
    return found


def drawing(
    documents: Documents, order: Order, prefixes: Prefixes | None, prefix_lengths: np.ndarray, seed: int
) -> Draw:
    """What gives streams of the documents in this order. prefix_lengths: tokens of each of the prefixes."""

    def plain(tokens: int) -> Stream:
        drawn = order(documents, tokens, seed)
        chosen = drawn.document
        whole = np.zeros(len(chosen), dtype=np.int64)
        return Stream(documents.row[chosen], whole, documents.length[chosen], drawn.window)

    def prefixed(tokens: int) -> Stream:
        """The order is asked for less, so that its end is that of the stream: what prefixes take is known only then."""
        assert prefixes is not None
        drawn = order(documents, tokens, seed)
        stream = with_prefixes(documents, drawn.document, drawn.window, prefixes, prefix_lengths, tokens)
        asked = max(1, tokens * tokens // int(stream.length.sum()))
        while True:
            drawn = order(documents, asked, seed)
            stream = with_prefixes(documents, drawn.document, drawn.window, prefixes, prefix_lengths, tokens)
            missing = tokens - int(stream.length.sum())
            if missing <= 0:
                return stream
            asked += missing

    return prefixed if prefixes else plain


def with_prefixes(
    documents: Documents,
    chosen: np.ndarray,
    window: np.ndarray | None,
    prefixes: Prefixes,
    prefix_lengths: np.ndarray,
    tokens: int,
) -> Stream:
    """The chosen documents with their prefixes, up to the prefixes' share of the tokens. Where that ends, a window does."""
    prefix = prefixes.of_document[chosen]
    lengths = np.append(prefix_lengths, 0)[prefix]  # -1 is the last
    begins = np.cumsum(lengths + documents.length[chosen]) - lengths - documents.length[chosen]
    early = begins < int(prefixes.share * tokens)
    has = early & (lengths > 0)
    starts = np.cumsum(prefix_lengths) - prefix_lengths
    places = np.arange(len(chosen)) + np.cumsum(has)  # of the documents among the ranges
    document, offset, length = (np.empty(len(chosen) + int(has.sum()), dtype=np.int64) for _ in range(3))
    for column, ours, theirs in (
        (document, documents.row[chosen], FIRST_PREFIX - prefix),
        (offset, 0, starts[prefix]),
        (length, documents.length[chosen], lengths),
    ):
        column[places] = ours
        column[places[has] - 1] = theirs[has]
    if window is not None:
        window = np.repeat(2 * window + ~early, 1 + has)
    return Stream(document, offset, length, window)


def shuffled_within_windows(
    windows: np.ndarray | None, count: int, longest: int, seed: int, draw: int = 0
) -> np.ndarray:
    """The order of `count` pieces of these windows: shuffled where the window is the same, at most `longest` at a time, so
    that rounds through the documents stay apart."""
    if windows is None:
        return np.arange(count)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(windows)) + 1, [count]))
    begins = [b for first, end in zip(edges[:-1], edges[1:], strict=True) for b in range(first, end, longest)]
    sizes = np.diff([*begins, count])
    return np.concatenate(
        [b + shuffled(n, seed, (draw << 40) + 2 * r + 1) for r, (b, n) in enumerate(zip(begins, sizes, strict=True))]
    )


def cut_sequences(
    stream: Stream, firsts: np.ndarray, length: int, per_step: int, longest: int, seed: int, draw: int = 0
) -> Ranges:
    """Pieces of length + 1 tokens that begin at these tokens of the stream, a sequence each, shuffled within its windows.

    The stream must reach as far. Pieces whose firsts are `length` apart share one token, so every token is predicted once.
    """
    ends = np.cumsum(stream.length)
    begins = ends - stream.length
    # the first range that each sequence touches and the one after its last; ten times as fast before the order is random
    left, right = np.searchsorted(ends, firsts, side="right"), np.searchsorted(begins, firsts + length + 1, side="left")
    windows = stream.window if stream.window is None else stream.window[left]
    order = shuffled_within_windows(windows, len(firsts), longest, seed, draw)
    firsts, left, counts = firsts[order], left[order], (right - left)[order]
    lasts = firsts + length + 1
    # one range for each pair of (sequence, range)
    sequence = np.repeat(np.arange(len(firsts)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(left, counts)
    lower = np.maximum(begins[place], firsts[sequence])
    upper = np.minimum(ends[place], lasts[sequence])
    return Ranges(
        step=sequence // per_step,
        sequence=sequence % per_step,
        document=stream.document[place],
        offset=stream.offset[place] + lower - begins[place],
        length=upper - lower,
    )


def concat_plans(plans: list[Ranges], first_steps: list[int]) -> Ranges:
    """Plans one after another, the steps of each counted from its first."""
    later = [replace(plan, step=plan.step + first) for plan, first in zip(plans, first_steps, strict=True)]
    names = ("step", "sequence", "document", "offset", "length")
    return Ranges(**{name: np.concatenate([getattr(plan, name) for plan in later]) for name in names})
