"""What an embedding says of itself, and what it is told of the tokens.

Letters as in lm/shape.py; C slots of a row in a cache.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention.documents import Documents
from lm.config import Config
from lm.context import Context
from lm.shape import Shape


@dataclass(frozen=True)
class Tokens:
    """ids_BT; before_BT, the id of the token before each, -1 where its document begins with it; embedding, the model's own, to
    be called, since its weight may be on other ranks in between."""

    ids_BT: Tensor
    before_BT: Tensor
    embedding: Callable[[Tensor], Tensor]


class Embedding(Config):
    """A method of the room: its hyperparameters, from which it builds its module.

    in_layers: it is of a layer and not of the input. wants_values: it adds to the values of attention. Tables are torch's
    Embedding layers, whose weights the decoder draws; of what else has parameters, `build` gives the first values.
    """

    in_layers: ClassVar[bool] = False
    wants_values: ClassVar[bool] = False

    def build(self, shape: Shape) -> nn.Module:
        """The module of the input, or of one layer."""
        raise NotImplementedError

    def flops(self, shape: Shape) -> float:
        """FLOP a token, forward and backward, of its products. Rows that are looked up cost none."""
        return 0.0

    def hugging_face_config(self) -> None:
        """Raises ValueError, in one line, where no family of Hugging Face has it."""
        name = self.name  # type: ignore[attr-defined]
        raise ValueError(f"no Hugging Face family that is written here has the embedding {name!r}: train without it")


def before_along(ids_BT: Tensor, documents: Documents | None) -> Tensor:
    """before_BT of whole rows, whose documents are given where a row is not one."""
    before_BT = F.pad(ids_BT[:, :-1], (1, 0), value=-1)
    if documents is None:
        return before_BT
    places_BT = torch.arange(ids_BT.numel(), device=ids_BT.device).view_as(ids_BT)
    return before_BT.masked_fill(documents.starts_N.view_as(ids_BT) == places_BT, -1)


def before_after(ids_BT: Tensor, positions_BT: Tensor, seen_BC: Tensor) -> Tensor:
    """before_BT of tokens at these positions of their rows. seen_BC has the ids of all tokens before them, each in the slot of
    its position, and gets these."""
    seen_BC.scatter_(1, positions_BT, ids_BT)
    before_BT = seen_BC.gather(1, (positions_BT - 1).clamp(min=0))
    return before_BT.masked_fill(positions_BT == 0, -1)


def before_of(ids_BT: Tensor, context: Context, seen_BC: Tensor | None) -> Tensor:
    """before_BT of a pass; seen_BC as `before_after` has it, None where nothing is kept."""
    if seen_BC is None or context.positions_BT is None:
        return before_along(ids_BT, context.documents)
    return before_after(ids_BT, context.positions_BT, seen_BC)


def embedded(modules: Iterable[nn.Module], x_BTD: Tensor, tokens: Tokens) -> Tensor:
    """The tokens as the embeddings of the input change them, one after the other."""
    for module in modules:
        x_BTD = module(x_BTD, tokens)
    return x_BTD


def check_lists(of_model: list[Any], of_pattern: list[list[Any]]) -> None:
    """Raises ValueError where the embeddings of a model, or of a layer of its pattern, cannot stand there."""
    for some in (of_model, *of_pattern):
        names = [one.name for one in some]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"embeddings: {twice} is there twice: leave one out")
    for one in (one for some in of_pattern for one in some if not one.in_layers):
        raise ValueError(f"pattern: {one.name} is of the model's input: put it into the model's embeddings")


def check_layer(index: int, beside: list[Any], mixer: Any) -> None:
    """Raises ValueError where a layer's mixer has no values that its embeddings could add to."""
    for one in beside:
        if one.wants_values and not mixer.has_values:
            raise ValueError(
                f"embeddings: {one.name} adds to values, and {mixer.name}, in layer {index}, has none: give layers their "
                "embeddings by `pattern`"
            )
