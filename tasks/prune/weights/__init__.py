"""Which single weights go: `(weight_OI, inputs or None) -> weight_OI` with zeros, of each matrix of the blocks."""

from tasks.prune.weights.magnitude import Magnitude
from tasks.prune.weights.sparse_gpt import SparseGpt
from tasks.prune.weights.wanda import Wanda
from tasks.prune.weights.whole import Whole
