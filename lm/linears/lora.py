"""LoRA: a matrix that stays, and a product of two thin ones that is trained beside it (Hu et al. 2021, arXiv:2106.09685).

Its parameters have rsLoRA (arXiv:2312.03732), `scaling: root_rank`, and LoRA+ (Hayou et al. 2024, arXiv:2402.12354), by which
the matrix that begins as zeros learns at a rate `up_rate` times as high; lm/linears/adapter.py has them and the arithmetic.
"""

from typing import Literal

import torch
from torch import nn

from lm.linears.adapter import AdaptedLinear, Adapter


class LoRA(Adapter):
    name: Literal["lora"] = "lora"

    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        return AdaptedLinear(linear, rank, scale, self.up_rate, generator)
