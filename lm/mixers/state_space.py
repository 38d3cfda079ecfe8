"""S5, a state-space layer: one linear recurrence of complex numbers that turn and decay at rates of their own, read out as real
numbers (Smith et al. 2022, "Simplified State Space Layers for Sequence Modeling", arXiv:2208.04933, section 3 and appendix A),
whose state begins anew with each document within the scan (Lu et al. 2023, arXiv:2303.03982, section 4.1).

    x_t = L x_{t-1} + (L - 1) / lambda * (B u_t),  L = exp(lambda * step),  y_t = 2 Re(C x_t) + D * u_t

with lambda, and a step for each number of a state, by zero-order hold; then, as S4's code has it (arXiv:2111.00396), a GELU and
a gated product. Each complex number stands for itself and its conjugate, whence the 2.

Differs from the papers: lambda begins as -1/2 + i pi n (S4D-Lin, arXiv:2206.11893) and not as eigenvalues of a HiPPO matrix;
B and C are drawn as all matrices of the model; steps begin spread over 0.001 to 0.1 by multiples of the golden ratio, where the
papers draw them; Re(lambda) is held below 0 by an exponential; S5 gates y itself by one matrix, in which a bare y would come
into the stream; a document begins with a factor of 0 on the state before, of which Lu's operator has a flag.

Letters as in lm/shape.py; P complex numbers of a state.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lm.context import Context
from lm.mixers.base import Mixer
from lm.mixers.minimal_rnn import Hidden, after, document_start_mask
from lm.mixers.scan import scan
from lm.shape import Shape

STEPS = (0.001, 0.1)
GOLDEN = (math.sqrt(5) - 1) / 2


def zero_order_hold(decay_P: Tensor, frequency_P: Tensor, step_P: Tensor) -> tuple[Tensor, Tensor]:
    """(L, (L - 1) / lambda) of zero-order hold, complex, lambda being -decay + i frequency.

    L - 1 of real parts that lose no digits where lambda * step is small: exp(a) cos(b) - 1 is expm1(a) cos(b) - 2 sin^2(b / 2).
    """
    a, b = -decay_P * step_P, frequency_P * step_P
    less = torch.complex(torch.expm1(a) * torch.cos(b) - 2 * torch.sin(b / 2).square(), torch.exp(a) * torch.sin(b))
    return 1 + less, less / torch.complex(-decay_P, frequency_P)


class Spaces(nn.Module):
    """The recurrence between a matrix B and a matrix C, each with the real parts of its complex numbers in front of the
    imaginary ones. context.shared: as of a Recurrent of lm/mixers/minimal_rnn.py."""

    def __init__(self, shape: Shape, states: int) -> None:
        super().__init__()
        self.enter = nn.Linear(shape.width, 2 * states, bias=False)
        self.read = nn.Linear(2 * states, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.width)
        self.down = nn.Linear(shape.width, shape.width, bias=False)
        places_P = torch.arange(states, dtype=torch.float64)
        low, high = (math.log(step) for step in STEPS)
        steps_P = low + (high - low) * (places_P * GOLDEN % 1)
        self.log_decay = nn.Parameter(torch.full((states,), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * places_P).float())
        self.log_step = nn.Parameter(steps_P.float())
        self.skip = nn.Parameter(torch.ones(shape.width))

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        turn_P, let_in_P = zero_order_hold(
            self.log_decay.to(wide).exp(), self.frequency.to(wide), self.log_step.to(wide).exp()
        )
        real_BTP, imaginary_BTP = self.enter(x_BTD).to(wide).chunk(2, -1)
        b_BTP = let_in_P * torch.complex(real_BTP, imaginary_BTP)
        a_BTP = turn_P.expand_as(b_BTP)
        if context.state is not None:
            h_BTP = after(a_BTP, b_BTP, context)
        else:
            h_BTP = scan(a_BTP if context.shared is None else a_BTP * context.shared, b_BTP)
        # Re(C h) = Re(C) Re(h) - Im(C) Im(h)
        parts_BTJ = 2 * torch.cat((h_BTP.real, -h_BTP.imag), -1)
        y_BTD = F.gelu(self.read(parts_BTJ.to(x_BTD.dtype)) + self.skip.to(x_BTD.dtype) * x_BTD)
        return self.down(y_BTD) * torch.sigmoid(self.gate(y_BTD))


class StateSpace(Mixer):
    name: Literal["state_space"] = "state_space"
    states: int = Field(64, gt=0, description="complex numbers of a state")
    into_stream = ("down",)

    def build(self, shape: Shape) -> Spaces:
        return Spaces(shape, self.states)

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Hidden:
        return Hidden(rows, self.states, device, torch.promote_types(dtype, torch.complex64))

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return 2 * self.states

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        return document_start_mask(context, rows, length)
