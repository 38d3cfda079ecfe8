"""In 8 bits, each token's by steps of its own that are measured as it comes; of keys and values each head's.

Inputs as in SmoothQuant's O1 (Xiao et al. 2023, arXiv:2211.10438, table 2) and, in groups of columns, in blockwise compression
(BCT, Dong et al. 2023, arXiv:2304.01483).

Differs from the papers: products are made in float32, of the whole numbers times their steps; what flows between matrices
(attention, norms, the feed-forward layer's gate) is as it was.
"""

from typing import Literal

from pydantic import Field

from lm.config import Config
from lm.quantized.inputs import Rounding


class Int8Inputs(Config):
    name: Literal["int8"] = "int8"
    group: int = Field(
        0, ge=0, description="numbers of a token, or of a head of it, that share a step; 0: all; BCT: 64"
    )

    def rounding(self) -> Rounding:
        return Rounding(bits=8, group=self.group)
