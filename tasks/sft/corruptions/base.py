"""What every corruption may do, and does not unless it says so. B rows, R of them in a part, T predictions, D width."""

from typing import ClassVar

from torch import Tensor

from lm.config import Config


class Corruption(Config):
    """noisy: whether `noise` adds something to embeddings."""

    noisy: ClassVar[bool] = False

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor, pad_id: int, seed: int, step: int, steps: int) -> Tensor:
        """ids_BT as a model reads them."""
        return ids_BT

    def noise(self, lengths_RT: Tensor, width: int, first: int, seed: int, step: int) -> Tensor | None:
        """noise_RTD that is added to the embeddings of some rows, the first of which is that number of the step, where
        lengths_RT has the tokens of each one's conversation; None: nothing."""
        return None
