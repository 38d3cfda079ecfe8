"""Casts to numbers of 8 bits: E4M3 of 4 bits of exponent and 3 of fraction, to 448; E5M2 to 57344 (Micikevicius et al. 2022,
arXiv:2209.05433). A number beyond the largest becomes the largest, and one that is none stays so."""

import torch
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def largest(kind: torch.dtype) -> float:
    """The largest number of a float8 dtype."""
    return torch.finfo(kind).max


def cast(values: Tensor, kind: torch.dtype) -> Tensor:
    """The nearest float8 numbers, of two equally near the one whose last bit is 0."""
    # a CPU rounds what is fp64 twice, by fp32: a 2^-29 part of cases at most
    return values.clamp(-largest(kind), largest(kind)).to(kind)
