"""Two planes of trits with a scale each for every group of columns: PTQTP, Xiao et al. 2025 (arXiv:2509.16989).

Letters: R groups of all rows, G columns of a group.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config
from lm.quantized.base import check_matrix
from lm.quantized.trits import Trits, pack_trits

# of the two planes, in the order in which equals are taken
PAIRS = [(first, second) for first in (-1, 0, 1) for second in (-1, 0, 1)]
# Rounds of the paper, and the change of the scales, of the largest weight of their group, below which there are no more
ROUNDS, ENOUGH = 50, 1e-4
# The ridge of the paper begins with this, and grows where the planes are so alike that their scales could not be told apart
RIDGE, CONDITION = 1e-8, 1e12


def scales_of(trits_2RG: Tensor, weight_RG: Tensor) -> Tensor:
    """scales_2R by which the planes come nearest to the weights: least squares in closed form, with a ridge."""
    first, second = trits_2RG
    a, b, c = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
    right, more = (first * weight_RG).sum(1), (second * weight_RG).sum(1)
    ridge = torch.full_like(a, RIDGE)
    for _ in range(2):  # once more where the first was too small
        determinant = (a + ridge) * (c + ridge) - b * b
        size = (a + ridge).square() + (c + ridge).square() + 2 * b * b
        condition = size / determinant.clamp(min=torch.finfo(torch.float64).tiny)
        ridge = torch.where(condition >= CONDITION, (RIDGE * (condition / CONDITION).sqrt()).clamp(max=1.0), ridge)
    determinant = (a + ridge) * (c + ridge) - b * b
    return torch.stack(((c + ridge) * right - b * more, (a + ridge) * more - b * right)) / determinant


def nearest(weight_RG: Tensor, scales_2R: Tensor) -> Tensor:
    """trits_2RG: of each weight the pair of nine whose sum is nearest; of equals the first."""
    pairs = weight_RG.new_tensor(PAIRS)
    sums_RK = (pairs[None] * scales_2R.T[:, None]).sum(2)
    best_RG = (weight_RG[:, :, None] - sums_RK[:, None]).abs().argmin(2)
    return pairs[best_RG].permute(2, 0, 1)


def planes(weight_RG: Tensor) -> tuple[Tensor, Tensor]:
    """(trits_2RG, scales_2R in bfloat16) for groups of weights in float64: scales for the trits and trits for the scales in
    turn, from both planes the signs, until scales stay; then the trits nearest by the scales that are stored."""
    trits_2RG = torch.sign(weight_RG).expand(2, -1, -1)
    largest_R = weight_RG.abs().amax(1)
    unit_RG = weight_RG / torch.where(largest_R > 0, largest_R, 1.0)[:, None]
    scales_2R = unit_RG.new_zeros(2, len(weight_RG))
    stay_R = torch.zeros(len(weight_RG), dtype=torch.bool, device=weight_RG.device)
    for _ in range(ROUNDS):
        found_2R = torch.where(stay_R, scales_2R, scales_of(trits_2RG, unit_RG))
        stay_R |= ((found_2R - scales_2R).abs() < ENOUGH).all(0)
        scales_2R, trits_2RG = found_2R, nearest(unit_RG, found_2R)
        if stay_R.all():
            break
    stored = (scales_2R * largest_R).to(torch.bfloat16)
    return nearest(weight_RG, stored.double()), stored


class TritPlanes(Config):
    """Products with trits are sums alone. Differs from the paper: scales are bfloat16, and trits the nearest by these; the
    ridge grows at once to what keeps the condition."""

    name: Literal["trit_planes"] = "trit_planes"
    needs_calibration: ClassVar[bool] = False
    group: int = Field(128, gt=0, description="columns that share two scales, of 16 bits each")

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None = None) -> Trits:
        """2 x 1.6 bits a weight and the scales. Raises ValueError when an entry is not finite."""
        check_matrix(weight_OI)
        rows, columns = weight_OI.shape
        weight = weight_OI.double()
        filled = torch.nn.functional.pad(weight, (0, -columns % self.group)).view(-1, self.group)  # zeros fit any scale
        trits_2RG, scales_2R = planes(filled)
        trits = trits_2RG.reshape(2, rows, -1)[:, :, :columns]
        return pack_trits(trits, scales_2R.view(2, rows, -1), self.group)
