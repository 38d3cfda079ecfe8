"""Compiled: how much of a text is n-grams of words that occur again.

Words and n-grams are compared by hashes of 64 bits: that any two of a million different ones of a text are taken for equal
has a chance of 3e-8.
"""

import numpy as np

from tasks.core.jit import compiled, inlined

SHORTEST_TOP, LONGEST_TOP, LONGEST_GRAM = 2, 4, 10


@inlined
def place_of(table, key):
    """Where a key is in an open hash table of 2^k keys, or may go."""
    mask = np.uint64(len(table) - 1)
    place = (key ^ (key >> np.uint64(29))) & mask
    while table[place] and table[place] != key:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def add_key(table, key):
    """Whether the key is new to the table, into which it goes."""
    place = place_of(table, key)
    if table[place]:
        return False
    table[place] = key
    return True


@compiled
def slots_for(count):
    slots = 16
    while slots < 2 * count:
        slots *= 2
    return slots


@compiled
def alive_in(alive, count):
    found = 0
    for first in range(count):
        found += alive[first]
    return found


@compiled(makes_arrays=True)
def top_gram(grams, reach, alive, count, size, paper):
    """Characters of all occurrences of the most frequent n-gram. paper: the longest of equally frequent ones, without the space
    between words, and 0 where none occurs twice; else the first of them, with it.

    alive: which n-grams may occur twice; in the end, which do.
    """
    slots = slots_for(alive_in(alive, count))
    table, times, firsts = np.zeros(slots, np.uint64), np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    for first in range(count):
        if alive[first]:
            place = place_of(table, grams[first])
            if not times[place]:
                table[place], firsts[place] = grams[first], first
            times[place] += 1
    most, chosen, longest = 1, 0, 0
    for place in range(slots):
        if times[place] > 1 and times[place] >= most:
            first = firsts[place]
            length = reach[first + size] - reach[first]
            if times[place] > most or (length > longest if paper else first < chosen):
                most, chosen, longest = times[place], first, length
    for first in range(count):
        alive[first] = alive[first] and times[place_of(table, grams[first])] > 1
    if paper:
        return most * longest if most > 1 else 0
    return most * (reach[chosen + size] - reach[chosen] + size - 1)


@compiled(makes_arrays=True)
def repeated_grams(grams, reach, alive, count, size, paper):
    """Characters in n-grams that occurred before, of those that are alive, which no other can. paper: of the words in any of
    them, each once; else of those found going from word to word, and from a repeated n-gram to the word after it."""
    candidates = alive_in(alive, count)
    if candidates < 2:
        return 0
    table = np.zeros(slots_for(candidates), np.uint64)
    first, reached, total = 0, 0, 0
    while first < count:
        if not alive[first] or add_key(table, grams[first]):
            first += 1
            continue
        total += reach[first + size] - reach[max(first, reached)]
        reached = first + size
        first += 1 if paper else size
    return total


@compiled(makes_arrays=True)
def add_grams(hashes, lengths, words, paper, found, column):
    """Nine columns, from `column` on: the most frequent 2- to 4-gram, repeated 5- to 10-grams.

    The hash of an n-gram grows out of that of the shorter one that begins with the same word. An n-gram occurs twice only where
    those of one word less in it do, so all of them are looked up for n = 2 alone.
    """
    grams, reach, alive = np.empty(words, np.uint64), np.zeros(words + 1, np.int64), np.ones(words, np.bool_)
    for word in range(words):
        grams[word] = hashes[word]
        reach[word + 1] = reach[word] + lengths[word]
    for size in range(SHORTEST_TOP, min(LONGEST_GRAM, words) + 1):
        count, place = words - size + 1, column + size - SHORTEST_TOP
        for first in range(count):
            grown = (grams[first] * np.uint64(0x9E3779B97F4A7C15)) ^ hashes[first + size - 1]
            grams[first] = (grown ^ (grown >> np.uint64(32))) | np.uint64(1)
            alive[first] = alive[first] and (size == SHORTEST_TOP or alive[first + 1])
        if size <= LONGEST_TOP:
            found[place] = top_gram(grams, reach, alive, count, size, paper)
        else:
            found[place] = repeated_grams(grams, reach, alive, count, size, paper)
