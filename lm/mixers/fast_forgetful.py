"""Fast and Forgetful Memory: what a token says, once for every pair of a rate at which it fades and a period in which it turns
(Morad et al. 2023, "Reinforcement Learning with Fast and Forgetful Memory", arXiv:2310.04128).

    S_t = exp(-|alpha| + i omega) * S_{t-1} + u_t 1',  u = l1(x) * sigmoid(l2(x))
    z = l3(Re(S) beside Im(S)),  y = LN(z) * sigmoid(l4(x)) + l5(x) * (1 - sigmoid(l4(x)))

S being traces x periods complex numbers, alpha one for each trace, omega one for each period, and LN without weights.

Differs from the paper: y goes through one more matrix, as all that comes into the stream; rates begin evenly spread from 1e-6
to 0.1 and periods from 2 tokens to the context, where the paper has them follow from how long a task must be remembered; a
document begins with a factor of 0 on the state before, in the scan of lm/mixers/scan.py.

Letters as in lm/shape.py; M traces, P traces x periods.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kernels.projections import projections
from lm.context import Context
from lm.mixers.base import Mixer
from lm.mixers.minimal_rnn import Hidden, after, document_start_mask
from lm.mixers.scan import scan
from lm.shape import Shape

FADES = (1e-6, 0.1)


class Memory(nn.Module):
    """The gated inputs, their traces, and what is made of these beside the token itself. context.shared: as of a Recurrent of
    lm/mixers/minimal_rnn.py."""

    def __init__(self, shape: Shape, traces: int, periods: int) -> None:
        super().__init__()
        self.eps = shape.norm_eps
        self.enter, self.enter_gate = nn.Linear(shape.width, traces), nn.Linear(shape.width, traces)
        self.read = nn.Linear(2 * traces * periods, shape.width)
        self.read_gate, self.skip = nn.Linear(shape.width, shape.width), nn.Linear(shape.width, shape.width)
        self.down = nn.Linear(shape.width, shape.width, bias=False)
        self.fade = nn.Parameter(torch.linspace(*FADES, traces))
        self.turn = nn.Parameter(2 * math.pi / torch.linspace(2, max(shape.context, 2), periods))

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        enter, enter_gate, read_gate, skip = projections(
            x_BTD, (self.enter, self.enter_gate, self.read_gate, self.skip)
        )
        u_BTM = (enter * torch.sigmoid(enter_gate)).to(wide)
        periods = self.turn.shape[0]
        real_BTP = u_BTM.repeat_interleave(periods, -1)
        b_BTP = torch.complex(real_BTP, torch.zeros_like(real_BTP))
        size_P = torch.exp(-self.fade.to(wide).abs()).repeat_interleave(periods)
        angle_P = self.turn.to(wide).repeat(self.fade.shape[0])
        a_BTP = torch.complex(size_P * angle_P.cos(), size_P * angle_P.sin()).expand_as(b_BTP)
        if context.state is not None:
            s_BTP = after(a_BTP, b_BTP, context)
        else:
            s_BTP = scan(a_BTP if context.shared is None else a_BTP * context.shared, b_BTP)
        z_BTD = self.read(torch.cat((s_BTP.real, s_BTP.imag), -1).to(x_BTD.dtype))
        normed_BTD = F.layer_norm(z_BTD, z_BTD.shape[-1:], eps=self.eps)
        return self.down(torch.lerp(skip, normed_BTD.to(skip.dtype), torch.sigmoid(read_gate)))


class FastForgetful(Mixer):
    name: Literal["fast_forgetful"] = "fast_forgetful"
    traces: int = Field(32, gt=0, description="numbers that a token leaves, each of which fades at a rate of its own")
    periods: int = Field(4, gt=0, description="in which each of them turns")
    into_stream = ("down",)

    def build(self, shape: Shape) -> Memory:
        return Memory(shape, self.traces, self.periods)

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Hidden:
        wide = torch.promote_types(dtype, torch.complex64)
        return Hidden(rows, self.traces * self.periods, device, wide)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return 2 * self.traces * self.periods

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        return document_start_mask(context, rows, length)
