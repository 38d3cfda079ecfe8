"""What a layer is worth: `(model, batches, progress) -> a score of each`; those with the lowest go."""

from tasks.prune.layers.influence import Influence
from tasks.prune.layers.shift import Shift
