"""Losses of fine-tuning: `(learned) -> loss, metrics`, in nats.

Both are shares of the step's, so that the parts that its rows are cut into add up. `learned` has the predictions that count,
their weights, and which conversation each is of (tasks/sft/losses/base.py).
"""

from tasks.sft.losses.confidence_limited import ConfidenceLimited
from tasks.sft.losses.cross_entropy import CrossEntropy
