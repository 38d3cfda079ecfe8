"""Compiled arithmetic of embeddings. Every sum is taken in a fixed order, so nothing depends on threads or on a library.

Letters: N texts, F features, K dimensions, C centroids.
"""

import numpy as np

from tasks.core.jit import compiled
from tasks.dedup.engine.compiled_shingles import mixed, words


@compiled(makes_arrays=True)
def count_terms(data, offsets, folded, features, terms, counts, ends_N):  # type: ignore[no-untyped-def]
    """The distinct hashed words of each text in the order they come, and how often they do; ends_N: where each text's end."""
    seen = np.zeros(features, dtype=np.int64)
    units = np.empty(1024, dtype=np.uint64)
    filled = 0
    for text in range(len(ends_N)):
        begin, at, end = filled, offsets[text], offsets[text + 1]
        while at < end:
            at, found = words(data, at, end, folded, units, 0)
            for place in range(found):
                term = np.int64(mixed(units[place]) % np.uint64(features))
                if not seen[term]:
                    terms[filled] = term
                    filled += 1
                seen[term] += 1
        for place in range(begin, filled):
            counts[place] = seen[terms[place]]
            seen[terms[place]] = 0
        ends_N[text] = filled
    return filled


@compiled
def weigh(terms, counts, begin, end, idf_F, weights):  # type: ignore[no-untyped-def]
    """(1 + ln count) idf of each term of one text, as a unit vector."""
    total = 0.0
    for place in range(begin, end):
        weight = (1.0 + np.log(float(counts[place]))) * idf_F[terms[place]]
        weights[place] = weight
        total += weight * weight
    for place in range(begin, end):
        weights[place] = weights[place] / np.sqrt(total)


@compiled(makes_arrays=True)
def project(terms, counts, ends_N, idf_F, basis_FK, out_NK, sums_FK):  # type: ignore[no-untyped-def]
    """x basis for each text's unit vector x; where sums_FK has rows, x^T x basis is added to it, a text after another."""
    weights = np.empty(len(terms), dtype=np.float32)
    begin, width = 0, basis_FK.shape[1]
    for text in range(len(ends_N)):
        weigh(terms, counts, begin, ends_N[text], idf_F, weights)
        row = out_NK[text]
        row[:] = 0.0
        for place in range(begin, ends_N[text]):
            weight, source = weights[place], basis_FK[terms[place]]
            for k in range(width):
                row[k] += weight * source[k]
        if len(sums_FK):
            for place in range(begin, ends_N[text]):
                weight, target = weights[place], sums_FK[terms[place]]
                for k in range(width):
                    target[k] += weight * row[k]
        begin = ends_N[text]


@compiled
def dot(left, right):  # type: ignore[no-untyped-def]
    """Dot product of two vectors, in four sums, which take turns."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = len(left) // 4 * 4
    for place in range(0, whole, 4):
        a += left[place] * right[place]
        b += left[place + 1] * right[place + 1]
        c += left[place + 2] * right[place + 2]
        d += left[place + 3] * right[place + 3]
    for place in range(whole, len(left)):
        a += left[place] * right[place]
    return (a + b) + (c + d)


@compiled
def orthonormalise(rows_KF, least):  # type: ignore[no-untyped-def]
    """Gram-Schmidt, twice for each row; a row of which less than the fraction `least` is left becomes zeros."""
    for k in range(len(rows_KF)):
        row = rows_KF[k]
        before = np.sqrt(dot(row, row))
        for _ in range(2):
            for other in range(k):
                share, earlier = dot(rows_KF[other], row), rows_KF[other]
                for place in range(len(row)):
                    row[place] -= share * earlier[place]
        length = np.sqrt(dot(row, row))
        for place in range(len(row)):
            row[place] = row[place] / length if length > least * before else 0.0


@compiled
def whiten(rows_KF, images_KF, least):  # type: ignore[no-untyped-def]
    """Gram-Schmidt by the product of a row and an image, image = row A: then rows A rows^T is the identity. Images change too;
    a row of which less than `least` is left becomes zeros."""
    for k in range(len(rows_KF)):
        row, image = rows_KF[k], images_KF[k]
        before = dot(row, image)
        for other in range(k):
            share = dot(images_KF[other], row)
            earlier, its_image = rows_KF[other], images_KF[other]
            for place in range(len(row)):
                row[place] -= share * earlier[place]
                image[place] -= share * its_image[place]
        squared = dot(row, image)
        scale = 1.0 / np.sqrt(squared) if squared > least * before else 0.0
        for place in range(len(row)):
            row[place] *= scale
            image[place] *= scale


@compiled(makes_arrays=True)
def nearest(points_NK, centroids_KC, labels_N, cosines_N):  # type: ignore[no-untyped-def]
    """The centroid of the largest product, the first of equals, and that product; -1 and 0 for a point of zeros."""
    products = np.empty(centroids_KC.shape[1], dtype=np.float32)
    for point in range(len(points_NK)):
        labels_N[point], cosines_N[point] = -1, 0.0
        if not points_NK[point].any():
            continue
        products[:] = 0.0
        for k in range(len(centroids_KC)):
            value, row = points_NK[point, k], centroids_KC[k]
            for c in range(len(products)):
                products[c] += value * row[c]
        best = 0
        for c in range(1, len(products)):
            if products[c] > products[best]:
                best = c
        labels_N[point], cosines_N[point] = best, products[best]


@compiled
def add_points(points_NK, labels_N, sums_CK):  # type: ignore[no-untyped-def]
    """Add each point to the sum of its cluster, in their order."""
    for point in range(len(points_NK)):
        if labels_N[point] >= 0:
            for k in range(points_NK.shape[1]):
                sums_CK[labels_N[point], k] += points_NK[point, k]


@compiled(makes_arrays=True)
def first_similar(points_NK, earlier_KM, before_N, threshold, found_N):  # type: ignore[no-untyped-def]
    """For each point, the first of the leading before_N[n] earlier ones whose product with it is above the threshold; what is
    found already, and -1 where nothing is, stays. 64 columns at once: a group of copies is left at its first."""
    width = 64
    products = np.empty(width, dtype=np.float32)
    for point in range(len(points_NK)):
        begin = 0
        while found_N[point] < 0 and begin < before_N[point]:
            end = min(begin + width, before_N[point])
            products[:] = 0.0
            for k in range(len(earlier_KM)):
                value = points_NK[point, k]
                for place in range(begin, end):
                    products[place - begin] += value * earlier_KM[k, place]
            for place in range(begin, end):
                if products[place - begin] > threshold:
                    found_N[point] = place
                    break
            begin = end
