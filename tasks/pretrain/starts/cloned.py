"""A smaller model several times side by side: HyperCloning, Samragh et al. 2024, Scaling Smart (arXiv:2409.12903)."""

from typing import Literal

from pydantic import Field

from lm.growing.cloned import check, cloned
from lm.model import Decoder, ModelConfig
from tasks.pretrain.starts.base import SLOT, Grown


class Cloned(Grown):
    """A wider model, each of whose widths is a whole number of times the smaller model's, and whose logits are that one's:
    symmetric, or with snr_db noisy symmetric.

    Differs from the paper: where the head is the embedding, the last norm's weights are divided, since no factor stands in
    front of a head here; a query head may be copied within the heads of its keys; the ratio is that of a block of all heads."""

    name: Literal["cloned"] = "cloned"
    snr_db: float | None = Field(
        None, description="how many decibels the weights are above the noise that tells copies apart; null: no noise"
    )

    def check(self, small: ModelConfig, shape: ModelConfig) -> None:
        check(small, shape, SLOT)

    def grow(self, small: Decoder, shape: ModelConfig, seed: int) -> Decoder:
        return cloned(small, shape, self.snr_db, seed, SLOT)
