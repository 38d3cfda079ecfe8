"""The language model of py3langid, walked by compiled code: log(1 + count) of byte n-grams, weighed for each language."""

import math

import numpy as np

from tasks.core.jit import compiled


@compiled(makes_arrays=True)
def log_odds(data, places, next_state, row_of_state, feature_of_state, weights_FL, prior_L):
    """scores_NL of each text, divided by the root of its bytes, as py3langid does before its softmax; 0 without a feature.

    F features, L labels. The automaton's step from state s by byte b is next_state[256 * row_of_state[s] + b].
    """
    features, labels = weights_FL.shape
    scores = np.empty(labels, np.float32)
    scores_NL = np.zeros((len(places) - 1, labels), np.float32)
    counts_F, seen = np.zeros(features, np.int32), np.empty(features, np.int32)
    for text in range(len(places) - 1):
        state, many = 0, 0
        for at in range(places[text], places[text + 1]):
            state = next_state[256 * np.int64(row_of_state[state]) + data[at]]
            feature = feature_of_state[state]
            if feature >= 0:
                if not counts_F[feature]:
                    seen[many] = feature
                    many += 1
                counts_F[feature] += 1
        if not many:
            continue
        scores[:] = 0
        for place in range(many):
            feature = seen[place]
            amount = np.float32(math.log1p(counts_F[feature]))
            counts_F[feature] = 0
            weights = weights_FL[feature]
            for label in range(labels):
                scores[label] += amount * weights[label]
        shrink = np.float32(1 / math.sqrt(places[text + 1] - places[text]))
        for label in range(labels):
            scores_NL[text, label] = (scores[label] + prior_L[label]) * shrink
    return scores_NL
