"""Losses of fine-tuning: `(learned) -> loss, metrics`, in nats.

Both are shares of the step's, so that the parts that its rows are cut into add up. `learned` has the predictions that count,
their weights, and which conversation each is of (tasks/sft/losses/base.py). `of_whole_answers`: whether a loss is made of how
likely whole answers are, and is no sum over tokens.
"""

from tasks.sft.losses.confidence_limited import ConfidenceLimited
from tasks.sft.losses.cross_entropy import CrossEntropy
