"""minGRU and minLSTM: recurrent layers whose gates do not see the state, so that all steps are computed at once (Feng et al.
2024, "Were RNNs all we needed?", arXiv:2410.01201, sections 3.1 and 3.2, with the candidates of appendix B, all above 0).

Differs from the paper: the same numbers come of a scan (lm/mixers/scan.py) and not of logarithms of sums, which lose digits
as a sequence grows and cannot begin anew with a document; the first state is 0, where the paper's listing has g of a given
one; no convolution of four tokens stands before the layer, as in its language models.

Letters as in lm/shape.py; H numbers of a state.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kernels.projections import projections
from lm.context import Context
from lm.mixers.base import Mixer
from lm.mixers.scan import scan
from lm.shape import Shape


def above_zero(x: Tensor) -> Tensor:
    """g of appendix B: x + 1/2 where x is not below 0, else its sigmoid."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def gru(update: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of h_t = a_t h_{t-1} + b_t: 1 - z and z g(candidate), z being the sigmoid of `update`."""
    return torch.sigmoid(-update), torch.sigmoid(update) * above_zero(candidate)


def lstm(forget: Tensor, enter: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of h_t = a_t h_{t-1} + b_t: f / (f + i) and i / (f + i) g(candidate), f and i being sigmoids of the first two."""
    # log(i / f), by which neither share divides by a sum of two numbers near 0
    ratio = nn.functional.logsigmoid(enter) - nn.functional.logsigmoid(forget)
    return torch.sigmoid(-ratio), torch.sigmoid(ratio) * above_zero(candidate)


class Hidden:
    """The last state of each row, in fp32 at least: a sum over all tokens before, which is rounded at each of them."""

    def __init__(self, rows: int, width: int, device: torch.device | None, dtype: torch.dtype) -> None:
        self.last_BH = torch.zeros(rows, width, device=device, dtype=torch.promote_types(dtype, torch.float32))

    def take(self, rows: Tensor, other: "Hidden", theirs: Tensor) -> None:
        """Have these rows begin as those of another state."""
        self.last_BH[rows] = other.last_BH[theirs]


class Recurrent(nn.Module):
    """Projections to gates and candidates, the recurrence, and a projection back. context.shared: 0 at the first token of each
    document and 1 elsewhere, B x T x 1; None where a row is one."""

    def __init__(self, shape: Shape, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gru":
            self.update = nn.Linear(shape.width, width)
        else:
            self.forget = nn.Linear(shape.width, width)
            self.enter = nn.Linear(shape.width, width)
        self.candidate = nn.Linear(shape.width, width)
        self.down = nn.Linear(width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        gates = (self.update,) if self.kind == "gru" else (self.forget, self.enter)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        made = (made_BTH.to(wide) for made_BTH in projections(x_BTD, (*gates, self.candidate)))
        a_BTH, b_BTH = (gru if self.kind == "gru" else lstm)(*made)
        if context.state is not None:
            h_BTH = after(a_BTH, b_BTH, context)
        else:
            h_BTH = scan(a_BTH if context.shared is None else a_BTH * context.shared, b_BTH)
        return self.down(h_BTH.to(x_BTD.dtype))


def after(a_BTH: Tensor, b_BTH: Tensor, context: Context) -> Tensor:
    """h_BTH of tokens that follow a state, which becomes that of the last token of each row."""
    assert context.lengths_B is not None
    state, counts_B = context.state, context.counts_B
    # a row without tokens may have a state: that of an answer which has ended
    before_BH = torch.where(context.lengths_B[:, None] > 0, state.last_BH, 0.0)
    first_B1H = torch.addcmul(b_BTH[:, :1], a_BTH[:, :1], before_BH[:, None])
    h_BTH = scan(a_BTH, torch.cat((first_B1H, b_BTH[:, 1:]), 1))
    if counts_B is None:
        state.last_BH.copy_(h_BTH[:, -1])
    else:
        places_B11 = (counts_B - 1).clamp(min=0)[:, None, None]
        last_BH = h_BTH.gather(1, places_B11.expand(-1, 1, h_BTH.shape[2]))[:, 0]
        state.last_BH.copy_(torch.where(counts_B[:, None] > 0, last_BH, before_BH))
    return h_BTH


def document_start_mask(context: Context, rows: int, length: int) -> Tensor | None:
    """0 at the first token of each document and 1 elsewhere, B x T x 1; None where a row is one."""
    if context.documents is None:
        return None
    starts_N = context.documents.starts_N
    begins_N = starts_N == torch.arange(rows * length, dtype=starts_N.dtype, device=starts_N.device)
    return (~begins_N).to(torch.float32).view(rows, length, 1)


class MinimalRNN(Mixer):
    name: Literal["minimal_rnn"] = "minimal_rnn"
    kind: Literal["gru", "lstm"] = Field("gru", description="minGRU or minLSTM")
    expansion: int = Field(1, gt=0, description="numbers of a state for each of the model's width")
    into_stream = ("down",)

    def build(self, shape: Shape) -> Recurrent:
        return Recurrent(shape, self.kind, self.expansion * shape.width)

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> Hidden:
        return Hidden(rows, self.expansion * shape.width, device, dtype)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return self.expansion * shape.width

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        return document_start_mask(context, rows, length)
