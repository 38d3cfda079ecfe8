"""SST, sparse spectral training: matrices in the form of their singular values and vectors, of which all values are trained and
some of the vectors, others every so many steps.

Zhao et al. 2024, arXiv:2405.15481, section 4 and algorithm 1: W = U diag(S) V^T, and W itself is gone. In every step
S <- max(S - rate dS, 0). For an iteration of some steps R of the vectors are trained, drawn without replacement with the
likelihoods (1 / M + S_m / sum S) / 2, and are brought back to length 1 after each update. Their gradients leave S out (the
enhanced gradient), or those of small values would hardly learn: dU_m = dW v_m and dV_m = dW^T u_m. With each iteration
moments begin at 0 and the rate warms up. After some iterations, a round, U, S and V are those of the product again, which makes
vectors orthogonal that training has bent.

Differs from the paper: by default 20 steps an iteration and 4 iterations a round, for runs of some hundred steps, where it has
200 and as many as the width over R; the whole model's rate warms up, and the values' moments begin anew with those of the
vectors; W is made of its parts for each product, so that a product costs what a dense one does; values never decay, and decay
of vectors is taken back with their length; where weights are averaged, means begin anew with an iteration, and a mean of
vectors is a little shorter than 1.

Letters: O outputs, I inputs, M the shorter of both, R vectors trained.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.config import ConfigError
from lm.linears.adapter import generator_of
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, is_a_part

# Of a vector that an update has brought to 0, so that it is divided by something
SHORTEST = 1e-30


def likelihoods(values_M: Tensor) -> Tensor:
    """likelihoods_M by which vectors are drawn: half of it even, half by the singular values."""
    share_M = values_M / values_M.sum().clamp(min=SHORTEST)
    return (1 / len(values_M) + share_M) / 2


def drawn(values_M: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """indices_R of so many vectors, none twice, in their order. The generator is one of the CPU."""
    chances_M = likelihoods(values_M.detach().cpu())
    return torch.multinomial(chances_M, count, generator=generator).sort().values.to(values_M.device)


def compose_weight(
    left_OM: Tensor, values_M: Tensor, right_MI: Tensor, up_OR: Tensor, down_RI: Tensor, drawn_R: Tensor
) -> Tensor:
    """weight_OI = U diag(S) V^T, in which the vectors that were drawn are those that are trained."""
    left_OM, right_MI = left_OM.index_copy(1, drawn_R, up_OR), right_MI.index_copy(0, drawn_R, down_RI)
    return (left_OM * values_M) @ right_MI


class _Product(torch.autograd.Function):
    """x W^T of a matrix that is made where it is needed, with the enhanced gradients of what is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parts)
        with torch.autocast(x.device.type, enabled=False):  # a matrix that is rounded once, as a dense one
            weight_OI = compose_weight(*parts)
        return F.linear(x, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(dy.device.type, enabled=False):  # likewise, where one calls backward with autocast on
            return _Product._gradients(dy, ctx.needs_input_grad[0], *ctx.saved_tensors)

    @staticmethod
    def _gradients(dy: Tensor, of_x: bool, x: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        left_OM, values_M, right_MI, up_OR, down_RI, drawn_R = parts
        dx = (dy @ compose_weight(*parts).to(dy.dtype)).to(x.dtype) if of_x else None
        rows, columns = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]).to(dy.dtype)
        dweight_OI = (rows.T @ columns).to(values_M.dtype)
        left_OM, right_MI = left_OM.index_copy(1, drawn_R, up_OR), right_MI.index_copy(0, drawn_R, down_RI)
        dvalues_M = (left_OM * (dweight_OI @ right_MI.T)).sum(0)
        return dx, None, dvalues_M, None, dweight_OI @ down_RI.T, up_OR.T @ dweight_OI, None


class SSTLinear(ReparametrizedLinear):
    """x (U diag(values) V^T)^T + bias; `up` and `down` are the columns of U and the rows of V^T that are trained."""

    roles = {"bias": "vector", "values": "vector", "up": "matrix", "down": "matrix"}  # noqa: RUF012
    left_OM: Tensor
    right_MI: Tensor
    drawn_R: Tensor

    def __init__(self, linear: nn.Linear, method: "SST", name: str) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        weight_OI = linear.weight.detach()
        del self.weight
        self.bias, self._method, self._name = linear.bias, method, name
        left_OM, values_M, right_MI = torch.linalg.svd(weight_OI, full_matrices=False)
        self.register_buffer("left_OM", left_OM.contiguous(), persistent=False)
        self.register_buffer("right_MI", right_MI.contiguous(), persistent=False)
        self.values = nn.Parameter(values_M)
        self.register_buffer("drawn_R", self.draw(0), persistent=False)
        self.up = nn.Parameter(self.left_OM[:, self.drawn_R])
        self.down = nn.Parameter(self.right_MI[self.drawn_R])

    def draw(self, step: int) -> Tensor:
        """indices_R of the vectors that are trained from a step on, at most as many as there are."""
        count = min(self._method.rank, len(self.values))
        return drawn(self.values, count, generator_of(self._method.seed, f"{self._name} {step}"))

    def parts(self) -> tuple[Tensor, ...]:
        return self.left_OM, self.values, self.right_MI, self.up, self.down, self.drawn_R

    def forward(self, x: Tensor) -> Tensor:
        made = _Product.apply(x, *self.parts())
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def flops(self) -> float:
        """FLOP of a dense product, which it is; those of making the matrix do not grow with tokens."""
        return 6.0 * self.in_features * self.out_features

    def dense(self) -> Tensor:
        return compose_weight(*self.parts())

    @torch.no_grad()
    def begin(self, step: int, turn: bool) -> None:
        if is_a_part(self.up):
            raise ConfigError("linear: sst needs whole matrices: set TOKENMILL_PARALLEL to exact or ddp")
        if not self._method.begins(step):
            return
        self.left_OM.index_copy_(1, self.drawn_R, self.up)
        self.right_MI.index_copy_(0, self.drawn_R, self.down)
        if self._method.decomposes(step):
            left_OM, values_M, right_MI = torch.linalg.svd(self.dense(), full_matrices=False)
            self.left_OM.copy_(left_OM)
            self.values.copy_(values_M)
            self.right_MI.copy_(right_MI)
        self.drawn_R.copy_(self.draw(step))
        self.up.copy_(self.left_OM[:, self.drawn_R])
        self.down.copy_(self.right_MI[self.drawn_R])

    @torch.no_grad()
    def settle(self) -> None:
        """Bring values back to 0 at least, and vectors to length 1."""
        self.values.clamp_(min=0)
        self.up.div_(torch.linalg.vector_norm(self.up, dim=0).clamp(min=SHORTEST))
        self.down.div_(torch.linalg.vector_norm(self.down, dim=1, keepdim=True).clamp(min=SHORTEST))

    def state(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def load(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.named_buffers():
            buffer.copy_(state[name])


class SST(SelectiveLinearMethod):
    name: Literal["sst"] = "sst"
    rank: int = Field(8, gt=0, description="singular vectors of either side that are trained at a time; the paper: 64")
    every: int = Field(20, gt=0, description="steps of an iteration, which trains the same vectors; the paper: 200")
    iterations: int = Field(
        4, gt=0, description="of a round, before vectors are made orthogonal; the paper: width over rank"
    )
    warmup: int = Field(5, ge=0, description="steps over which the rate comes back in an iteration; the paper: 20")
    seed: int = Field(0, ge=0, description="of the vectors that are drawn")

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer of singular values and vectors, or the layer itself where it is not meant."""
        if not self.applies_to(name):
            return linear
        return SSTLinear(linear, self, name)

    def begins(self, step: int) -> bool:
        """Whether an iteration begins, but for the first."""
        return step > 0 and step % self.every == 0

    def decomposes(self, step: int) -> bool:
        """Whether a round begins, but for the first."""
        return step > 0 and step % (self.every * self.iterations) == 0

    def after(self, step: int, layers: Mapping[str, Any]) -> None:
        for layer in layers.values():
            layer.settle()

    def rewrites_weights(self) -> bool:
        return True

    def clears(self, step: int, layers: Mapping[str, ReparametrizedLinear]) -> float | None:
        return 1.0 if self.begins(step) else None

    def factor(self, step: int, layers: Mapping[str, ReparametrizedLinear]) -> float:
        """Part of the rate: up by equal parts in an iteration, without a step at 0."""
        return min(1.0, (step % self.every + 1) / (self.warmup + 1)) if step >= self.every else 1.0
