"""Lines that begin with a known problem and end with its answer, white space aside, compiled.

Letters: R problems, sorted by nothing in particular; prompt r is prompts[prompts_R[r] : prompts_R[r + 1]], its answer likewise.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from tasks.core.jit import compiled
from tasks.filter.engine.compiled_terms import FOLD, OFFSET, PRIME, mixed

NEWLINE = 10


class Solved(NamedTuple):
    """The problems. Bytes without white space, ASCII letters in lower case; is_length[n]: some prompt has n bytes."""

    prompts: np.ndarray
    prompts_R: np.ndarray
    answers: np.ndarray
    answers_R: np.ndarray
    is_length: np.ndarray
    keys_R: np.ndarray
    slots: np.ndarray


@compiled(types.boolean(types.uint8))
def is_space(byte):
    return byte == 32 or 9 <= byte <= 13


@compiled(makes_arrays=True)
def prompt_keys(prompts, prompts_R):
    """keys_R of the prompts, as `solved` makes them of the beginning of a line."""
    keys_R = np.empty(len(prompts_R) - 1, np.uint64)
    for row in range(len(keys_R)):
        value = OFFSET
        for at in range(prompts_R[row], prompts_R[row + 1]):
            value = (value ^ np.uint64(prompts[at])) * PRIME
        keys_R[row] = mixed(value)
    return keys_R


@compiled
def is_solved(data, start, stop, row, problems):
    """Whether the line data[start:stop] is the problem `row`, anything, and its answer."""
    at = start
    for place in range(problems.prompts_R[row], problems.prompts_R[row + 1]):
        while at < stop and is_space(data[at]):
            at += 1
        if at == stop or FOLD[data[at]] != problems.prompts[place]:
            return False
        at += 1
    for place in range(problems.answers_R[row + 1] - 1, problems.answers_R[row] - 1, -1):
        while stop > at and is_space(data[stop - 1]):
            stop -= 1
        if stop == at or FOLD[data[stop - 1]] != problems.answers[place]:
            return False
        stop -= 1
    return True


@compiled
def row_of_line(data, start, stop, problems):
    """The first problem whose solution the line is, -1 when it is none's."""
    value, length = OFFSET, 0
    for at in range(start, stop):
        if is_space(data[at]):
            continue
        value = (value ^ np.uint64(FOLD[data[at]])) * PRIME
        length += 1
        if length == len(problems.is_length):
            break
        if problems.is_length[length]:
            key = mixed(value)
            slot = np.int64(key & np.uint64(len(problems.slots) - 1))
            while problems.slots[slot]:
                row = problems.slots[slot] - 1
                if problems.keys_R[row] == key and is_solved(data, start, stop, row, problems):
                    return row
                slot = (slot + 1) & (len(problems.slots) - 1)
    return -1


@compiled(makes_arrays=True)
def solved(data, places, problems):
    """row_N: the problem of each text's first line that is a solved one, -1 when there is none."""
    row_N = np.full(len(places) - 1, -1, np.int64)
    for text in range(len(places) - 1):
        start = places[text]
        while start < places[text + 1] and row_N[text] < 0:
            stop = start
            while stop < places[text + 1] and data[stop] != NEWLINE:
                stop += 1
            row_N[text] = row_of_line(data, start, stop, problems)
            start = stop + 1
    return row_N
