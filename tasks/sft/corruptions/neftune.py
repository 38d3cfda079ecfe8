"""NEFTune: noise on the embeddings of what is read (Jain et al. 2023, arXiv:2310.05914, algorithm 1). D width of the model."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.problems.example import unit_hash
from tasks.sft.corruptions.base import Corruption


def uniform_noise(lengths_RT: Tensor, width: int, alpha: float, first: int, seed: int, step: int) -> Tensor:
    """noise_RTD, each entry uniform in (-1, 1) times alpha / sqrt(L D), for the L tokens of a conversation. Every row has draws
    of its own, so that it does not matter which rows come together; on a GPU they are others than on a CPU."""
    rows = []
    for row in range(len(lengths_RT)):
        # torch's generator on a CPU takes 32 bits of a seed, and says nothing of the others
        number = int(unit_hash(f"noise:{seed}:{step}:{first + row}") * 2**32)
        generator = torch.Generator(lengths_RT.device).manual_seed(number)
        rows.append(torch.rand(lengths_RT.shape[1], width, generator=generator, device=lengths_RT.device))
    scale_RT = alpha / (lengths_RT * width).sqrt()
    return (2 * torch.stack(rows) - 1) * scale_RT[..., None]


class Neftune(Corruption):
    """Differs from the paper: L is the conversation's own length; theirs counts the padding of its batch too."""

    name: Literal["neftune"] = "neftune"
    noisy: ClassVar[bool] = True
    alpha: float = Field(5.0, gt=0, description="the paper tries 5, 10 and 15")

    def noise(self, lengths_RT: Tensor, width: int, first: int, seed: int, step: int) -> Tensor | None:
        return uniform_noise(lengths_RT, width, self.alpha, first, seed, step)
