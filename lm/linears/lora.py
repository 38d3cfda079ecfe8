"""LoRA: a matrix that stays, and a product of two thin ones that is trained beside it (Hu et al. 2021, arXiv:2106.09685).

Its parameters have rsLoRA (arXiv:2312.03732), `scaling: root_rank`; LoRA+ (Hayou et al. 2024, arXiv:2402.12354), by which the
matrix that begins as zeros learns at a rate `up_rate` times as high; PiSSA (Meng et al. 2024, arXiv:2404.02948) and OLoRA
(Büyükakyüz 2024, arXiv:2406.01775), by which both begin as a part of the matrix, `start`; and LoRA-FA (Zhang et al. 2023,
arXiv:2308.03303), by which the matrix that is not zeros stays, `trained: up`. lm/linears/adapter.py has the arithmetic.

Differs from the papers: PiSSA's singular values are exact, where a fast approximation may do; the matrix that stays in LoRA-FA
begins uniform in place of normal, and gradients are what they are, where peft's optimizer of that name projects them.
"""

from typing import Literal

import torch
from torch import nn

from lm.linears.adapter import AdaptedLinear, LowRank


class LoRA(LowRank):
    name: Literal["lora"] = "lora"

    def adapted(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> AdaptedLinear:
        return AdaptedLinear(linear, self, rank, scale, generator)
