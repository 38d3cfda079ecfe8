"""How many bits each matrix of the blocks gets: `choose_bits(model, method, batches, progress, trained) -> bits by name`,
none for those of quantize.method and for those that were trained in few bits."""

from tasks.quantize.widths.budget import Budget
from tasks.quantize.widths.same import Same
