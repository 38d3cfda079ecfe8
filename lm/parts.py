"""What every part of a layer says of itself beside its arithmetic. lm/mixers and lm/feed_forwards are rooms of parts."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lm.config import Config
from lm.shape import Shape


def with_loss(made: Any) -> tuple[Tensor, Tensor | None]:
    """(result, auxiliary loss) of a part, which gives its result alone where it has no such loss."""
    return made if isinstance(made, tuple) else (made, None)


class Part(Config):
    """A method of a room of parts: its hyperparameters, from which it builds its module for one layer. The module gives its
    result, or (result, loss) where something is to be added to the loss of training, a mean over the tokens of the pass.

    Matrices are torch's Linear layers, whose weights the decoder draws (biases are 0); what else has parameters, `build` gives
    their first values.
    """

    # whether a pass of training computes another function than all others do, as where experts choose among later tokens
    trained_otherwise: ClassVar[bool] = False
    into_stream: ClassVar[tuple[str, ...]] = ()  # layers whose result is added to the residual stream: drawn smaller
    hugging_face: ClassVar[dict[str, str]] = {}  # of each submodule with weights, the name in Hugging Face's layer

    def build(self, shape: Shape) -> nn.Module:
        """The module of one layer."""
        raise NotImplementedError

    def unused_weights(self, shape: Shape) -> int:
        """Weights of its matrices that a token is not multiplied with, such as those of experts that it does not visit."""
        return 0

    def unused_weights_in_training(self, shape: Shape) -> int:
        """Weights of its matrices that a token is not multiplied with in a step of training."""
        return self.unused_weights(shape)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP a token, forward and backward, beside the products with weights, in sequences of `length` tokens."""
        return 0.0

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        """The keys of Hugging Face's config.json that say what this part is, `layer_type` being that of its layers. Raises
        ValueError, in one line, where no family has it."""
        raise ValueError(f"no Hugging Face family has {self.name}")  # type: ignore[attr-defined]


@torch.no_grad()
def draw_(module: nn.Module, blocks: Sequence[tuple[int, Any]], config: Any, generator: torch.Generator) -> None:
    """Draw the weights of a module and all in it. Biases 0; matrices normal, std 0.02, and 1/sqrt(2 layers) of that in the
    projections back into the stream of its blocks, each given with the layer whose parts it has, as in GPT-2."""
    into_stream: set[nn.Module] = set()
    for index, block in blocks:
        parts = config.layer(index)
        for part, inner in ((parts.mixer, block.attention), (parts.feed_forward, block.ffn)):
            into_stream |= {inner.get_submodule(name) for name in part.into_stream}
    for inner in module.modules():
        if isinstance(inner, nn.Linear | nn.Embedding):
            share = 1 / math.sqrt(2 * config.layers) if inner in into_stream else 1
            inner.weight.normal_(0, 0.02 * share, generator=generator)
            if getattr(inner, "bias", None) is not None:
                inner.bias.zero_()  # type: ignore[operator]
