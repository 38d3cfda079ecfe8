"""Looking up and checking the rows of a memo, compiled. N documents, M rows of the memo, B bands."""

import numpy as np

from tasks.core.jit import compiled
from tasks.dedup.engine.compiled_shingles import mixed


@compiled
def check_of(row):
    """64 bits of a row (digest, digest, check, B keys) but for the check itself."""
    check = np.uint64(len(row))
    for place in range(len(row)):
        if place != 2:
            check = mixed(check ^ row[place])
    return check


@compiled(makes_arrays=True)  # for assignments to slices
def look_up(table, digests, keys_BN, found_N):
    """The keys of the texts that an intact row of the sorted table has, and which texts these are."""
    for text in range(digests.shape[1]):
        high, low = digests[0, text], digests[1, text]
        begin, end = 0, len(table)
        while begin < end:
            middle = (begin + end) // 2
            if table[middle, 0] < high or (table[middle, 0] == high and table[middle, 1] < low):
                begin = middle + 1
            else:
                end = middle
        same = begin < len(table) and table[begin, 0] == high and table[begin, 1] == low
        if same and table[begin, 2] == check_of(table[begin]):
            keys_BN[:, text] = table[begin, 3:]
            found_N[text] = True


@compiled(makes_arrays=True)
def put(table, places, digests, keys_BN):
    """Rows of documents at their places in the table."""
    for text in range(len(places)):
        row = table[places[text]]
        row[0], row[1] = digests[0, text], digests[1, text]
        row[3:] = keys_BN[:, text]
        row[2] = check_of(row)
