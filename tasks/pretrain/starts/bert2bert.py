"""A smaller model with some of its neurons again: bert2BERT, Chen et al. 2021 (arXiv:2110.07143)."""

from typing import Literal

from pydantic import Field

from lm.growing.bert2bert import Knowledge, bert2bert, check
from lm.model import Decoder, ModelConfig
from tasks.pretrain.starts.base import SLOT, Grown


class Bert2Bert(Grown):
    """A wider or deeper model. With `own`, as many layers and a stream of the same width its logits are the smaller model's; a
    wider stream changes them, since norms see some channels more often than others.

    Differs from the paper: the embedding has the stream's places, and the head too; where they are one, the last norm's weights
    are divided by the counts. The last layer has no next one, and takes its own. All layers are trained from the first step on:
    the paper's first stage, which trains parts of the stack, is left out."""

    name: Literal["bert2bert"] = "bert2bert"
    knowledge: Knowledge = Field("advanced", description="own: the paper's FPI; advanced: its AKI")

    def check(self, small: ModelConfig, shape: ModelConfig) -> None:
        check(small, shape, self.knowledge, SLOT)

    def grow(self, small: Decoder, shape: ModelConfig, seed: int) -> Decoder:
        return bert2bert(small, shape, self.knowledge, seed, SLOT)
