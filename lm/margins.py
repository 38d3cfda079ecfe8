"""What a pair of answers costs by the margin between their log-ratios: of pairs that stand in a file, and of a policy's own.

P pairs; log-ratios are log(model / frozen model) of whole answers, nats.
"""

import torch.nn.functional as F
from torch import Tensor


def log_sigmoid_of_margin(ratio_chosen_P: Tensor, ratio_rejected_P: Tensor, beta: float, flipped: float) -> Tensor:
    """loss_P = -(1 - flipped) log sigmoid(m) - flipped log sigmoid(-m), m = beta (ratio_chosen - ratio_rejected): direct
    preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    flipped: the share of pairs whose labels are taken to be the wrong way round, Mitchell's conservative DPO (2023); 0 is DPO.
    """
    margin_P = beta * (ratio_chosen_P - ratio_rejected_P)
    return -(1 - flipped) * F.logsigmoid(margin_P) - flipped * F.logsigmoid(-margin_P)


def squared_distance(ratio_chosen_P: Tensor, ratio_rejected_P: Tensor, tau: float) -> Tensor:
    """loss_P = (ratio_chosen - ratio_rejected - 1 / (2 tau))^2, identity preference optimization (Azar et al. 2023,
    arXiv:2310.12036, equation 17): a margin beyond 1 / (2 tau) costs, too, so it does not grow without end where all pairs are
    told apart."""
    return (ratio_chosen_P - ratio_rejected_P - 1 / (2 * tau)).square()
