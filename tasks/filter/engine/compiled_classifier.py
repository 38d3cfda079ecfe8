"""A linear classifier of hashed words and pairs of words, compiled: training one example after another, and scores.

Letters: V buckets, D width, N texts.
"""

import math

import numpy as np

from tasks.core.jit import compiled
from tasks.filter.engine.compiled_terms import mixed, next_word

PAIR = np.uint64(0x9E3779B97F4A7C15)


@compiled
def buckets_of(data, start, end, V, ids):
    """How many ids of the text's words, and of its words after the first with the one before, were written to `ids`; as many
    words as there is room for. V is a power of two."""
    at, before, many, last = start, np.uint64(0), 0, np.uint64(V - 1)
    while at < end and many + 1 < len(ids):
        begin, at, word = next_word(data, at, end)
        if begin == at:
            break
        ids[many] = word & last
        many += 1
        if many > 1:
            ids[many] = mixed(before * PAIR + word) & last
            many += 1
        before = word
    return many


@compiled(makes_arrays=True)
def train(data, places, is_good_N, order, epochs, lr, embedding_VD, room):
    """(weight_D, bias, seen_V) after SGD on the logistic loss of sigmoid(weight . mean of embeddings + bias), example after
    example in this order; embedding_VD is trained in place. The rate falls linearly to 0, as in fastText."""
    V, D = embedding_VD.shape
    weight, bias, seen_V = np.zeros(D, np.float32), np.float32(0), np.zeros(V, np.bool_)
    ids, hidden, step = np.empty(room, np.int64), np.empty(D, np.float32), np.empty(D, np.float32)
    total, done = epochs * len(order), 0
    for _ in range(epochs):
        for text in order:
            rate = lr * (1 - done / total)
            done += 1
            many = buckets_of(data, places[text], places[text + 1], V, ids)
            if not many:
                continue
            hidden[:] = 0
            for place in range(many):
                for d in range(D):
                    hidden[d] += embedding_VD[ids[place], d]
            logit = bias
            for d in range(D):
                hidden[d] /= np.float32(many)
                logit += weight[d] * hidden[d]
            gap = np.float32(rate * (is_good_N[text] - 1 / (1 + math.exp(-logit))))
            for d in range(D):
                step[d] = gap * weight[d] / np.float32(many)
                weight[d] += gap * hidden[d]
            bias += gap
            for place in range(many):
                seen_V[ids[place]] = True
                for d in range(D):
                    embedding_VD[ids[place], d] += step[d]
    return weight, bias, seen_V


@compiled(makes_arrays=True)
def probabilities(data, places, worth_V, bias):
    """score_N in [0, 1]: sigmoid of the mean worth of a text's words and pairs, plus bias; that of the bias without a word."""
    scores, V = np.empty(len(places) - 1, np.float32), np.uint64(len(worth_V) - 1)
    for text in range(len(scores)):
        at, end, before, many, total = places[text], places[text + 1], np.uint64(0), 0, 0.0
        while at < end:
            begin, at, word = next_word(data, at, end)
            if begin == at:
                break
            total += worth_V[word & V]
            if many:
                total += worth_V[mixed(before * PAIR + word) & V]
            many += 1
            before = word
        mean = total / (2 * many - 1) if many else 0.0
        scores[text] = 1 / (1 + math.exp(-(mean + bias)))
    return scores
