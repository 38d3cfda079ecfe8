"""The step of a reward model: the share that some pairs have in its loss.

Letters: P pairs, R = 2 P rows, L tokens of a row, M heads.
"""

from typing import Any

from torch import Tensor

from lm.heads import scores_at
from lm.model import Decoder
from lm.training.batch import Metrics


def loss_of(
    loss: Any, model: Decoder, ids_RL: Tensor, last_R: Tensor, counts_PM: Tensor, total: float, pairs: int
) -> tuple[Tensor, Metrics]:
    """Share of R / 2 pairs in the step's loss: the mean over `total` pairs of a row of the table and a head that learns from
    it; and in the means over the step's pairs of the margin of the mean score and of its being above 0.

    Rows 2p and 2p + 1 are the chosen and the rejected answer of a pair behind their prompt; last_R: where each row ends.
    counts_PM: 1 where a head learns from a pair, else 0.
    """
    score_RM = scores_at(model, ids_RL, last_R)
    chosen_PM, rejected_PM = score_RM[0::2], score_RM[1::2]
    loss_PM = loss(chosen_PM, rejected_PM)
    margin_P = (chosen_PM - rejected_PM).mean(1).detach()
    found: Metrics = {"margin": margin_P.sum() / pairs, "accuracy": (margin_P > 0).float().sum() / pairs}
    return (loss_PM * counts_PM).sum() / total, found
