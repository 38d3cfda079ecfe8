"""Curricula: `(documents, budget, seed) -> plan`."""

from tasks.curriculum.methods.length_buckets import LengthBuckets
from tasks.curriculum.methods.shuffled_packing import ShuffledPacking
