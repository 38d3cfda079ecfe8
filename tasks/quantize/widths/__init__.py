"""How many bits each matrix of the blocks gets: `given(model, method, batches, progress) -> bits by name`, none for those of
quantize.method."""

from tasks.quantize.widths.budget import Budget
from tasks.quantize.widths.same import Same
