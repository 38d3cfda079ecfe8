"""A smaller model at any larger width and up to twice its depth: LEMON, Wang et al. 2023 (arXiv:2310.07999)."""

from typing import Literal

from pydantic import Field

from lm.growing.lossless import check, lossless
from lm.model import Decoder, ModelConfig
from tasks.pretrain.starts.base import SLOT, Grown


class Lossless(Grown):
    """A wider or deeper model, whose logits are the smaller model's; copies get gradients of their own.

    Differs from the paper: where the larger width is no multiple, norm_eps stays and the stream is larger, in place of a
    smaller norm_eps, since norms of queries and keys have it, too; a new layer is otherwise its neighbour alone, where the
    paper's code mixes the next one in. The paper's schedule, which decays sooner, is pretrain.schedule's to give."""

    name: Literal["lossless"] = "lossless"
    scale: float = Field(
        1.0, gt=0, description="of the random part of weights that read copies, in parts of a new model's weights"
    )

    def check(self, small: ModelConfig, shape: ModelConfig) -> None:
        check(small, shape, SLOT)

    def grow(self, small: Decoder, shape: ModelConfig, seed: int) -> Decoder:
        return lossless(small, shape, self.scale, seed, SLOT)
