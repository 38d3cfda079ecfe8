"""Where documents hold n-grams of known pieces of text, compiled: rolling hashes, every hit compared word by word.

Letters: K different n-grams, P postings (an n-gram at a place of a piece), Q pieces, W words of all pieces.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from tasks.core.jit import compiled
from tasks.filter.engine.compiled_terms import BYTES, FOLD, mixed, next_word

BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word's hash is lost in the product
RING = 64  # words kept while a document is read; more than the longest n-gram
ZERO, ONE = np.uint64(0), np.uint64(1)


class Pieces(NamedTuple):
    """The texts that are looked for. lengths: the values of n, ascending, below RING; lengths_Q: each piece's own, 0 where it
    is not looked for; coverable_Q: its words that stand in an n-gram which is looked for. data: the bytes of all pieces."""

    lengths: np.ndarray
    keys_K: np.ndarray
    slots: np.ndarray
    seen: np.ndarray
    postings_K: np.ndarray
    piece_P: np.ndarray
    word_P: np.ndarray
    data: np.ndarray
    first_W: np.ndarray
    stop_W: np.ndarray
    words_Q: np.ndarray
    lengths_Q: np.ndarray
    coverable_Q: np.ndarray


@compiled(types.uint64(types.uint64, types.int64))
def key_of(rolling, length):
    """The key of an n-gram: its rolling hash and its length."""
    return mixed(rolling ^ (np.uint64(length) * BASE))


@compiled(makes_arrays=True)
def split_words(data, places):
    """(first bytes_W, bytes after the last_W, Q + 1 places of each text's first word)."""
    room = int(places[-1] - places[0]) // 2 + len(places)
    first_W, stop_W, words_Q = np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(len(places), np.int64)
    count = 0
    for text in range(len(places) - 1):
        at = places[text]
        while at < places[text + 1]:
            begin, at, _ = next_word(data, at, places[text + 1])
            if begin < at:
                first_W[count], stop_W[count] = begin, at
                count += 1
        words_Q[text + 1] = count
    return first_W[:count].copy(), stop_W[:count].copy(), words_Q


@compiled(makes_arrays=True)
def piece_keys(data, first_W, stop_W, words_Q, lengths_Q):
    """(keys_P, piece_P, word_P): every n-gram of every piece, n being lengths_Q[piece]; 0 for a piece to leave out."""
    room = len(first_W)
    keys_P, piece_P, word_P = np.empty(room, np.uint64), np.empty(room, np.int32), np.empty(room, np.int32)
    count = 0
    for piece in range(len(lengths_Q)):
        length = lengths_Q[piece]
        words = words_Q[piece + 1] - words_Q[piece]
        for begin in range(words - length + 1 if length else 0):
            rolling = ZERO
            for word in range(words_Q[piece] + begin, words_Q[piece] + begin + length):
                rolling = rolling * BASE + next_word(data, first_W[word], stop_W[word])[2]
            keys_P[count], piece_P[count], word_P[count] = key_of(rolling, length), piece, begin
            count += 1
    return keys_P[:count].copy(), piece_P[:count].copy(), word_P[:count].copy()


@compiled(makes_arrays=True)
def slots_of(keys_K):
    """Open addressing: place + 1 in keys_K where a key is, from the slot that its low bits name on; at most a quarter full."""
    size = 16
    while size < 4 * len(keys_K):
        size *= 2
    slots = np.zeros(size, np.int32)
    for place in range(len(keys_K)):
        at = np.int64(keys_K[place] & np.uint64(size - 1))
        while slots[at]:
            at = (at + 1) & (size - 1)
        slots[at] = place + 1
    return slots


@compiled(makes_arrays=True)
def seen_of(keys_K):
    """Bits that the keys' high bits name, 8 to 16 a key and a power of two: a look at them, which stay in a processor's cache,
    spares nine of ten looks into the slots."""
    bits = 512
    while bits < 8 * len(keys_K):
        bits *= 2
    seen = np.zeros(bits // 64, np.uint64)
    for key in keys_K:
        bit = (key >> np.uint64(32)) & np.uint64(bits - 1)
        seen[bit >> np.uint64(6)] |= ONE << (bit & np.uint64(63))
    return seen


@compiled(types.boolean(BYTES, types.int64, types.int64, BYTES, types.int64, types.int64))
def same_word(left, left_first, left_stop, right, right_first, right_stop):
    """Whether two words are the same but for the case of ASCII letters."""
    size, same = left_stop - left_first, 0
    if size != right_stop - right_first:
        return False
    while same < size and FOLD[left[left_first + same]] == FOLD[right[right_first + same]]:
        same += 1
    return same == size


@compiled
def same_words(data, begins, stops, words, pieces, posting, length):
    """Whether the last `length` words read, of which a ring holds the places, are those of the posting."""
    theirs = pieces.words_Q[pieces.piece_P[posting]] + pieces.word_P[posting]
    for step in range(length):
        mine = (words - length + 1 + step) & (RING - 1)
        first, stop = pieces.first_W[theirs + step], pieces.stop_W[theirs + step]
        if not same_word(data, begins[mine], stops[mine], pieces.data, first, stop):
            return False
    return True


@compiled(makes_arrays=True)
def find(data, start, end, pieces):
    """(posting, number of the document's word it begins at) of every n-gram of a piece in data[start:end], in that order."""
    found_posting, found_word, count = np.empty(16, np.int64), np.empty(16, np.int64), 0
    begins, stops, sums = np.zeros(RING, np.int64), np.zeros(RING, np.int64), np.zeros(RING, np.uint64)
    keys_K, slots, seen, lengths = pieces.keys_K, pieces.slots, pieces.seen, pieces.lengths
    last_slot, last_bit = np.uint64(len(slots) - 1), np.uint64(64 * len(seen) - 1)
    powers = np.ones(RING, np.uint64)
    for power in range(1, RING):
        powers[power] = powers[power - 1] * BASE
    words, total, at = 0, ZERO, start
    while at < end:
        begin, at, hashed = next_word(data, at, end)
        if begin == at:
            break
        total = total * BASE + hashed
        words += 1
        now = words & (RING - 1)
        begins[now], stops[now], sums[now] = begin, at, total
        for row in range(len(lengths)):
            length = lengths[row]
            if length > words:
                break
            key = key_of(total - sums[(words - length) & (RING - 1)] * powers[length], length)
            bit = (key >> np.uint64(32)) & last_bit
            if not (seen[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & ONE:
                continue
            slot = key & last_slot
            while slots[slot] and keys_K[slots[slot] - 1] != key:
                slot = (slot + ONE) & last_slot
            if not slots[slot]:
                continue
            for posting in range(pieces.postings_K[slots[slot] - 1], pieces.postings_K[slots[slot]]):
                if same_words(data, begins, stops, words, pieces, posting, length):
                    if count == len(found_word):
                        found_posting = np.concatenate((found_posting, np.empty_like(found_posting)))
                        found_word = np.concatenate((found_word, np.empty_like(found_word)))
                    found_posting[count], found_word[count] = posting, words - length
                    count += 1
    return found_posting[:count], found_word[:count]


@compiled(makes_arrays=True)
def best_cover(found_posting, found_word, pieces, window, overlap, least):
    """(piece, fraction) of the piece that a stretch of the document covers most of; (-1, 0.0) when none is enough.

    A stretch is at most `window` times as many words as the piece has. Enough: `overlap` of the words that can be covered,
    and `least` words. Of equals the first piece.
    """
    best_piece, best = -1, 0.0
    order = np.argsort(
        pieces.piece_P[found_posting], kind="mergesort"
    )  # stable: in a piece, still by the document's words
    at = 0
    while at < len(order):
        piece = pieces.piece_P[found_posting[order[at]]]
        stop = at
        while stop < len(order) and pieces.piece_P[found_posting[order[stop]]] == piece:
            stop += 1
        length, words = pieces.lengths_Q[piece], pieces.words_Q[piece + 1] - pieces.words_Q[piece]
        times, covered, most, left = np.zeros(words, np.int64), 0, 0, at
        for right in range(at, stop):
            place = pieces.word_P[found_posting[order[right]]]
            for word in range(place, place + length):
                covered += times[word] == 0
                times[word] += 1
            while found_word[order[right]] + length - found_word[order[left]] > window * words:
                gone = pieces.word_P[found_posting[order[left]]]
                for word in range(gone, gone + length):
                    times[word] -= 1
                    covered -= times[word] == 0
                left += 1
            most = max(most, covered)
        fraction = most / pieces.coverable_Q[piece]
        if most >= least and fraction >= overlap and fraction > best:
            best_piece, best = piece, fraction
        at = stop
    return best_piece, best


@compiled(makes_arrays=True)
def covers(data, places, pieces, window, overlap, least):
    """(piece_N, fraction_N) of `best_cover` for each text."""
    piece_N, fraction_N = np.full(len(places) - 1, -1, np.int64), np.zeros(len(places) - 1)
    for text in range(len(places) - 1):
        found_posting, found_word = find(data, places[text], places[text + 1], pieces)
        if len(found_word):
            piece_N[text], fraction_N[text] = best_cover(found_posting, found_word, pieces, window, overlap, least)
    return piece_N, fraction_N
