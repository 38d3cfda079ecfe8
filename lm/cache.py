"""What a model keeps of the tokens that it has read, so that those which follow cost no more than themselves.

Letters as in lm/shape.py; C slots of a row.
"""

from typing import Any

import torch
from torch import Tensor

from lm.mixture_of_depths import state_of
from lm.quantized.inputs import Rounding


class Cache:
    """What each layer keeps of the tokens seen so far, for rows of up to `capacity` tokens each; row b has lengths_B[b]. Where
    the model reads a prompt before them, that is kept in front, and counted nowhere.
    Raises ValueError for a capacity beyond the model's context."""

    def __init__(
        self,
        config: Any,
        rows: int,
        capacity: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        rounding: Rounding | None = None,
        prompt: int = 0,
    ) -> None:
        """config: of the model, a ModelConfig. rounding: of what attention keeps; None: it is kept in `dtype`. prompt: vectors
        that stand before each row's tokens."""
        if capacity > config.context:
            raise ValueError(f"a cache of {capacity} tokens is longer than the model's context of {config.context}")
        room = (rows, capacity + prompt, device, dtype, rounding)
        self.states = [state_of(config, index, *room) for index in range(config.layers)]
        self.lengths_B = torch.zeros(rows, dtype=torch.int64, device=device)
        # what embeddings of the input look back at; all ids, since tokens may be taken back
        self.ids_BC = torch.zeros(rows, capacity, dtype=torch.int64, device=device) if config.of_input else None
        self.capacity, self.dtype, self.first = capacity, dtype, True

    def grow(self, tokens: int, counts_B: Tensor | None) -> None:
        """Count so many tokens of each row as kept, or as many as counts_B says."""
        self.lengths_B += tokens if counts_B is None else counts_B
        self.first = False

    def take(self, rows: Tensor, other: "Cache", theirs: Tensor) -> None:
        """Have these rows begin as those of another cache, whose capacity is no larger."""
        # a layer at a time: what is taken lies twice in memory meanwhile
        for state, others in zip(self.states, other.states, strict=True):
            state.take(rows, others, theirs)
        if self.ids_BC is not None and other.ids_BC is not None:
            self.ids_BC[rows, : other.capacity] = other.ids_BC[theirs]
        self.lengths_B[rows] = other.lengths_B[theirs]
        self.first = False
