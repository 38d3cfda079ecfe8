"""Inversion of the cumulative distribution: Devroye 1986, Non-Uniform Random Variate Generation, section III.2."""

import torch
from torch import Tensor


def pick(logits_RV: Tensor, temperature: float, points_R: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_R, logps_R): the first token at whose end the cumulative probability is above the point; the sum in fp64, in whose
    rounding alone it differs from 1."""
    wide_RV = logits_RV.float()
    logps_RV = (wide_RV / temperature if temperature > 0 else wide_RV).log_softmax(-1)
    if temperature > 0:
        ends_RV = logps_RV.double().exp_().cumsum_(-1)
        total_R1 = ends_RV[:, -1:]
        # below the end of the last, or a product that rounds up would fall behind all of them
        at_R1 = torch.minimum(points_R[:, None] * total_R1, total_R1.nextafter(torch.zeros_like(total_R1)))
        ids_R = torch.searchsorted(ends_RV, at_R1, right=True)[:, 0]
    else:
        ids_R = logps_RV.argmax(-1)
    return ids_R, logps_RV.gather(1, ids_R[:, None])[:, 0]
