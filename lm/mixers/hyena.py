"""Hyena: convolutions as long as a sequence, whose filters a small network makes of positions, between products of projections
(Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866, definition 3.1 and section 3.3).

With z^1 = v: z^{n+1}_t = x^n_t (h^n * z^n)_t for n = 1 to N, and the result is z^{N+1}. v and all x are projections of the
tokens, each channel then convolved over three tokens. h^n of a lag is a network with sines for it, times exp(-a lag), where
the rates of decay a are spread over the channels as in the authors' code, from 1% left at 1.5 contexts to 1% at 0.3.

A convolution in a row that is one document is a product of Fourier transforms. With documents it is a sum over halves of
blocks of 2, 4, 8, ... tokens, of what a left half adds to its right: one document at most crosses the middle, so that a mask
on either side makes it exact, whatever the documents are, in shapes that do not depend on them. A state keeps z^n of all
tokens.

Differs from the paper: matrices are drawn as all of the model; the convolutions of three tokens begin as passing a token on;
no bias is added to a filter or to what it gives; a sampler makes its filters anew in each step.

Letters as in lm/shape.py; C slots of a row in a state, N the order, L half of a block.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lm.context import Context
from lm.mixers.base import Mixer
from lm.shape import Shape

TAPS, BANDS = 3, 16
LEFT, SLOW, FAST = 0.01, 1.5, 0.3


def convolved(h_TD: Tensor, z_BTD: Tensor) -> Tensor:
    """y_BTD: the sum of h_{t-s} z_s over s up to t."""
    T = z_BTD.shape[1]
    n = 2 * T  # zeros behind, so that nothing comes round
    return torch.fft.irfft(torch.fft.rfft(z_BTD, n, dim=1) * torch.fft.rfft(h_TD, n, dim=0), n, dim=1)[:, :T]


def convolved_within(h_TD: Tensor, z_BTD: Tensor, starts_BT: Tensor) -> Tensor:
    """y_BTD: the sum of h_{t-s} z_s over s up to t in the document of t. starts_BT: where in its row a token's
    document begins."""
    B, T, D = z_BTD.shape
    P = 1 << (T - 1).bit_length()
    h_PD, z_BPD = (nn.functional.pad(each, (0, 0, 0, P - T)) for each in (h_TD, z_BTD))
    starts_BP = nn.functional.pad(starts_BT, (0, P - T), value=P)
    places_P = torch.arange(P, device=z_BTD.device)
    y_BPD, L = h_PD[0] * z_BPD, 1
    while L < P:
        left_BKLD, own_KL = z_BPD.view(B, -1, 2, L, D)[:, :, 0], places_P.view(-1, 2, L)[:, 0]
        begins_BKL = starts_BP.view(B, -1, 2, L)[:, :, 1]
        crossing_BK1 = begins_BKL[:, :, :1]
        in_BKLD = left_BKLD * (own_KL >= crossing_BK1)[..., None]
        product = torch.fft.rfft(in_BKLD, 2 * L, dim=2) * torch.fft.rfft(h_PD[: 2 * L], dim=0)
        more_BKLD = torch.fft.irfft(product, 2 * L, dim=2)[:, :, L:] * (begins_BKL == crossing_BK1)[..., None]
        y_BPD = y_BPD + torch.stack((torch.zeros_like(more_BKLD), more_BKLD), 2).view(B, P, D)
        L *= 2
    return y_BPD[:, :T]


def convolved_at(h_CD: Tensor, z_BCD: Tensor, positions_BT: Tensor) -> Tensor:
    """y_BTD: the sum at these positions over all slots up to them, whatever stands in the slots behind."""
    if positions_BT.shape[1] > 1:
        return convolved(h_CD, z_BCD).gather(1, positions_BT[..., None].expand(-1, -1, z_BCD.shape[2]))
    lags_BC = positions_BT - torch.arange(z_BCD.shape[1], device=z_BCD.device)
    seen_BCD = torch.where((lags_BC >= 0)[..., None], z_BCD, 0.0)
    return (h_CD[lags_BC.clamp(min=0)] * seen_BCD).sum(1, keepdim=True)


class Filters(nn.Module):
    """h_TND of lags from 0 on: the network of the positions' waves, and its window.

    exact: its layers are used where autocast is off (`lm/linears/base.py`).
    """

    exact = True

    def __init__(self, shape: Shape, order: int, width: int, frequency: float) -> None:
        super().__init__()
        self.order, self.width, self.frequency, self.context = order, shape.width, frequency, shape.context
        self.enter = nn.Linear(1 + 2 * BANDS, width)
        self.inner = nn.Linear(width, width)
        self.leave = nn.Linear(width, order * shape.width, bias=False)

    def forward(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        place_T1 = torch.arange(length, device=device, dtype=dtype)[:, None] / self.context
        waves_TF = 2 * math.pi * place_T1 * torch.linspace(1e-4, BANDS - 1, BANDS, device=device, dtype=dtype)
        x = torch.cat((place_T1, waves_TF.cos(), -waves_TF.sin()), 1)
        x = torch.sin(self.frequency * self.enter(x))
        h_TND = self.leave(torch.sin(self.frequency * self.inner(x))).view(length, self.order, self.width)
        most, least = (-math.log(LEFT) / contexts for contexts in (FAST, SLOW))
        rates_D = torch.linspace(least, most, self.width, device=device, dtype=dtype)
        return h_TND * torch.exp(-rates_D * place_T1)[:, None]


class History:
    """What follows needs of the tokens before: z^n of each, a slot a token, and the projections of the last two."""

    def __init__(
        self, order: int, width: int, rows: int, slots: int, device: torch.device | None, dtype: torch.dtype
    ) -> None:
        self.kept_NBCD = torch.zeros(order, rows, slots, width, device=device, dtype=dtype)
        self.last_BJM = torch.zeros(rows, TAPS - 1, (order + 1) * width, device=device, dtype=dtype)

    def take(self, rows: Tensor, other: "History", theirs: Tensor) -> None:
        """Have these rows begin as those of another state, whose capacity is no larger."""
        self.kept_NBCD[:, rows, : other.kept_NBCD.shape[2]] = other.kept_NBCD[:, theirs]
        self.last_BJM[rows] = other.last_BJM[theirs]


class Operator(nn.Module):
    """Projections, the recurrence of products and convolutions, and a projection back. context.shared: where in its row a
    token's document begins, B x T; None where a row is one."""

    def __init__(self, shape: Shape, order: int, filter_width: int, frequency: float) -> None:
        super().__init__()
        self.order, self.width = order, shape.width
        self.project = nn.Linear(shape.width, (order + 1) * shape.width)
        self.filters = Filters(shape, order, filter_width, frequency)
        self.output = nn.Linear(shape.width, shape.width, bias=False)
        # of the token itself, the one before, and the one before that
        self.taps = nn.Parameter(torch.eye(TAPS)[0][:, None].repeat(1, (order + 1) * shape.width))

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        T, wide = x_BTD.shape[1], torch.promote_types(x_BTD.dtype, torch.float32)
        state, positions_BT = context.state, context.positions_BT
        made_BTM = self.short(self.project(x_BTD).to(wide), context)
        length = T if state is None else state.kept_NBCD.shape[2]
        with torch.autocast(x_BTD.device.type, enabled=False):  # a position in bf16 is rounded to one of 256
            h_TND = self.filters(length, x_BTD.device, wide)
        z_BTD, *gates = made_BTM.split(self.width, -1)
        for n, gate_BTD in enumerate(gates):
            h_TD = h_TND[:, n]
            if state is not None:
                assert positions_BT is not None
                kept_BCD = state.kept_NBCD[n]
                kept_BCD.scatter_(1, positions_BT[..., None].expand_as(z_BTD), z_BTD.to(kept_BCD.dtype))
                mixed_BTD = convolved_at(h_TD, kept_BCD.to(wide), positions_BT)
            elif context.shared is None:
                mixed_BTD = convolved(h_TD, z_BTD)
            else:
                mixed_BTD = convolved_within(h_TD, z_BTD, context.shared)
            z_BTD = gate_BTD * mixed_BTD
        return self.output(z_BTD.to(x_BTD.dtype))

    def short(self, made_BTM: Tensor, context: Context) -> Tensor:
        """The projections, each channel convolved over a token and the two before it in its document; a state
        keeps the last two."""
        T, state = made_BTM.shape[1], context.state
        own_T = torch.arange(T, device=made_BTM.device)
        if state is None:
            places_BT = own_T[None] if context.shared is None else own_T - context.shared
            behind_BJM = made_BTM.new_zeros(made_BTM.shape[0], TAPS - 1, made_BTM.shape[2])
        else:
            assert context.positions_BT is not None
            places_BT, behind_BJM = context.positions_BT, state.last_BJM.to(made_BTM.dtype)
        all_BSM = torch.cat((behind_BJM, made_BTM), 1)
        y_BTM = self.taps[0] * made_BTM
        for lag in range(1, TAPS):
            before_BTM = all_BSM[:, TAPS - 1 - lag : TAPS - 1 - lag + T]
            y_BTM = y_BTM + self.taps[lag] * torch.where((places_BT >= lag)[..., None], before_BTM, 0.0)
        if state is not None:
            came_B1 = torch.full_like(places_BT[:, :1], T) if context.counts_B is None else context.counts_B[:, None]
            ends_BJ1 = (came_B1 + torch.arange(TAPS - 1, device=own_T.device))[..., None]
            state.last_BJM.copy_(all_BSM.gather(1, ends_BJ1.expand_as(behind_BJM)))
        return y_BTM


class Hyena(Mixer):
    name: Literal["hyena"] = "hyena"
    order: Literal[2, 3] = Field(2, description="long convolutions, each with a product behind it")
    filter_width: int = Field(64, gt=0, description="inner width of the network that makes filters")
    frequency: float = Field(10.0, gt=0, description="of its sines: a filter changes faster from lag to lag")
    into_stream = ("output",)

    def build(self, shape: Shape) -> Operator:
        return Operator(shape, self.order, self.filter_width, self.frequency)

    def unused_weights(self, shape: Shape) -> int:
        """The weights that make filters, once a pass for all its tokens."""
        return self.filter_width * (1 + 2 * BANDS + self.filter_width + self.order * shape.width)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of the Fourier transforms of a row that is one document: two of n = 2 length numbers forward and two backward
        for each channel of a convolution, 5/2 n log2(n) each."""
        return self.order * shape.width * 4 * 5 * math.log2(2 * length)

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> History:
        return History(self.order, shape.width, rows, capacity, device, dtype)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return shape.width * (self.order * tokens + (TAPS - 1) * (self.order + 1))

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        if context.documents is None:
            return None
        starts_BT = context.documents.starts_N.view(rows, length)
        return starts_BT - length * torch.arange(rows, dtype=starts_BT.dtype, device=starts_BT.device)[:, None]
