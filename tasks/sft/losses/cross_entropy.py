"""The mean negative log-likelihood of what is learned."""

from typing import ClassVar, Literal

from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy
from lm.config import Config
from lm.training.batch import Metrics
from tasks.sft.losses.base import TokenPredictions


class CrossEntropy(Config):
    """A mean over the tokens of the step, each by its weight: a long answer weighs more than a short one."""

    name: Literal["cross_entropy"] = "cross_entropy"
    of_whole_answers: ClassVar[bool] = False

    def __call__(self, learned: TokenPredictions) -> tuple[Tensor, Metrics]:
        loss, _ = linear_cross_entropy(
            learned.x_KD,
            learned.head_VD,
            learned.targets_K,
            weights_T=learned.weights_K,
            denominator=learned.total,
            softcap=learned.softcap,
        )
        return loss, {}
