"""GPTQ: columns are rounded one after the other, and what one loses the later ones make up for (Frantar et al. 2023).

arXiv:2210.17323, algorithm 1. Differs from the paper: float64, and a minimum beside the scale of a group unless it is
symmetric.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.quantized.base import check_matrix
from lm.quantized.counts import Counts, pack
from tasks.quantize.grid import Grid, codes_of, fit, grouped

# Columns whose changes reach the rest of the matrix at once; changes speed alone.
BLOCK = 128


def gptq(
    weight_OI: Tensor,
    inputs: LayerInputs,
    bits: int,
    group: int,
    damping: float,
    ordered: bool = False,
    symmetric: bool = False,
) -> Counts:
    """Codes that keep inputs @ weight' near what it was. Raises ValueError when a weight or an input is not finite.

    ordered: the columns whose inputs are largest come first, while there are others to make up for them (act-order of the
    authors' code, with its static groups); a group's range is then that of the weights as they were, since a group's columns
    do not come together. Else columns come in their own order, and a group's range is taken when its turn comes, from columns
    already changed.
    """
    check_matrix(weight_OI)
    inputs.check()
    columns = weight_OI.shape[1]
    order_I = inputs.order_I if ordered else torch.arange(columns, device=weight_OI.device)
    weight, upper_II = weight_OI.double()[:, order_I], inputs.factor(damping, ordered)
    minima, scales = fit(grouped(weight_OI, group), bits, symmetric)
    codes, place_of = torch.empty_like(weight), order_I.tolist()
    block = group * max(BLOCK // group, 1)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        lost = weight.new_zeros(len(weight), end - start)
        for column in range(start, end):
            mine = place_of[column] // group
            if not ordered and column % group == 0:
                low, step = fit(weight[:, None, column : min(column + group, columns)], bits, symmetric)
                scales[:, mine] = step[:, 0]
                if minima is not None and low is not None:
                    minima[:, mine] = low[:, 0]
            low, step = None if minima is None else minima[:, mine, None], scales[:, mine, None]
            value = weight[:, column]
            codes[:, column] = codes_of(value[:, None, None], low, step, bits).flatten()
            zero = -step.double() * 2 ** (bits - 1) if low is None else low.double()
            rounded = (zero + codes[:, column, None] * step.double()).flatten()
            lost[:, column - start] = (value - rounded) / upper_II[column, column]
            weight[:, column:end] -= lost[:, column - start, None] * upper_II[column, column:end]
        weight[:, end:] -= lost @ upper_II[start:end, end:]
    back_I = order_I.argsort()
    return pack(codes[:, back_I], scales, minima, bits, group)


class Gptq(Grid):
    name: Literal["gptq"] = "gptq"
    damping: float = Field(0.01, gt=0, description="of the mean diagonal of the inputs' second moments")
    order: Literal["columns", "activations"] = Field(
        "columns",
        description="in which columns are rounded; activations: those with the largest inputs first (act-order)",
    )

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Counts:
        """Weights packed by GPTQ. With no calibration every input counts the same, which is round to nearest by group."""
        given = inputs or LayerInputs(torch.eye(weight_OI.shape[1], device=weight_OI.device))
        return gptq(weight_OI, given, self.bits, self.group, self.damping, self.order == "activations", self.symmetric)
