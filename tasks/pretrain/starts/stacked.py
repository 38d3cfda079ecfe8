"""The layers of a smaller model upon each other: G_stack, Du et al. 2024, Stacking Your Transformers (arXiv:2405.15319)."""

from typing import Literal

from pydantic import Field

from lm.growing.stacked import Order, check, stacked
from lm.model import Decoder, ModelConfig
from tasks.pretrain.starts.base import SLOT, Grown


class Stacked(Grown):
    """A deeper model, whose layers are a whole number of times the smaller model's: the growth factor of the paper, which finds
    4 best after a short training of the smaller model. Its loss begins above the smaller model's: the function is another.

    Differs from the paper: the optimizer and the schedule begin anew, as the smaller model's run is another."""

    name: Literal["stacked"] = "stacked"
    order: Order = Field("whole", description="whole: 0 1 2 0 1 2; interleaved: 0 0 1 1 2 2")

    def check(self, small: ModelConfig, shape: ModelConfig) -> None:
        check(small, shape, self.order, SLOT)

    def grow(self, small: Decoder, shape: ModelConfig, seed: int) -> Decoder:
        return stacked(small, shape, self.order, SLOT)
