"""Equal keys found in few passes, and clusters as a forest of rows, compiled.

Letters: N rows of the table, C candidates.
"""

import numpy as np

from tasks.core.jit import compiled


@compiled
def mark(keys, once, twice):
    """Set the bit of each key in `once`, and in `twice` if it was set: a key that comes twice has both, few others have."""
    last = np.uint64(len(once) * 8 - 1)
    for key in keys:
        place, bit = (key & last) >> np.uint64(3), np.uint8(1 << (key & np.uint64(7)))
        if once[place] & bit:
            twice[place] |= bit
        else:
            once[place] |= bit


@compiled
def count_marked(keys, twice, counts):
    """Add the keys whose bit is set in `twice` to counts, by their leading 8 bits."""
    last = np.uint64(len(twice) * 8 - 1)
    for key in keys:
        if twice[(key & last) >> np.uint64(3)] & np.uint8(1 << (key & np.uint64(7))):
            counts[key >> np.uint64(56)] += 1


@compiled
def take_marked(keys, rows, twice, low, high, keys_C, rows_C, filled):
    """The marked keys whose leading 8 bits are in [low, high), with their rows, into keys_C and rows_C from `filled` on."""
    last = np.uint64(len(twice) * 8 - 1)
    for place in range(len(keys)):
        key = keys[place]
        marked = twice[(key & last) >> np.uint64(3)] & np.uint8(1 << (key & np.uint64(7)))
        if marked and low <= np.int64(key >> np.uint64(56)) < high:
            keys_C[filled], rows_C[filled] = key, rows[place]
            filled += 1
    return filled


@compiled
def root_of(parents_N, row):
    """The root of a row's tree, halving the path to it."""
    while parents_N[row] != row:
        parents_N[row] = parents_N[parents_N[row]]
        row = parents_N[row]
    return row


@compiled
def unite(parents_N, left, right):
    """Hang the later of two roots below the earlier, so that a root is the first of its cluster."""
    a, b = root_of(parents_N, left), root_of(parents_N, right)
    if a < b:
        parents_N[b] = a
    elif b < a:
        parents_N[a] = b


@compiled
def roots(parents_N):
    """N roots, in place: parents come before their children."""
    for row in range(len(parents_N)):
        parents_N[row] = parents_N[parents_N[row]]


@compiled
def unite_groups(rows, starts, parents_N):
    """Each group rows[starts[i]:starts[i + 1]] is of one cluster."""
    for group in range(len(starts) - 1):
        for place in range(starts[group] + 1, starts[group + 1]):
            unite(parents_N, rows[starts[group]], rows[place])


@compiled
def similar(left, right, threshold):
    """Whether two sorted sets have a Jaccard similarity of at least the threshold; two empty ones are equal."""
    fewer, more = min(len(left), len(right)), max(len(left), len(right))
    if fewer < threshold * more:
        return False
    i, j, shared = 0, 0, 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        shared += a == b
        i += a <= b
        j += b <= a
    return shared >= threshold * (len(left) + len(right) - shared)


@compiled
def unite_similar(rows, starts, parents_N, sets, places_N, begins_C, threshold, all_pairs_up_to):
    """Put rows of each group that are similar into one cluster; returns how many pairs were compared.

    The set of a row is sets[begins_C[c] : begins_C[c + 1]], c = places_N[row]. Pairs that are in one cluster already are passed
    over. Of a group above `all_pairs_up_to` each is compared with the first and with the one before it alone.
    """
    compared = 0
    for group in range(len(starts) - 1):
        begin, end = starts[group], starts[group + 1]
        for i in range(begin + 1, end):
            nearest = begin if end - begin <= all_pairs_up_to else i - 1
            j = begin
            while j < i:
                left, right = rows[j], rows[i]
                j = max(j + 1, nearest)
                if root_of(parents_N, left) == root_of(parents_N, right):
                    continue
                compared += 1
                a, b = places_N[left], places_N[right]
                if similar(sets[begins_C[a] : begins_C[a + 1]], sets[begins_C[b] : begins_C[b + 1]], threshold):
                    unite(parents_N, left, right)
    return compared
