"""What every loss of reward models is."""

from torch import Tensor

from lm.config import Config


class RewardLoss(Config):
    """A loss of the scores of the better and of the worse answer of each pair."""

    def __call__(self, chosen_PM: Tensor, rejected_PM: Tensor) -> Tensor:
        """loss_PM (nats), of each pair under each head by itself."""
        raise NotImplementedError
