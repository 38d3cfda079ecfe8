"""How the three products of a layer are rounded: y = x W^T forward, and dx = dy W and dW = dy^T x backward.

A scheme says what numbers each product is made of; `Products` is the one place where autograd meets them. On a CPU, and for now
on a GPU too, products are emulated: codes of few bits are brought back to fp32 and multiplied there, which is exact but for the
order of sums, since a product of two codes has no more than 24 bits. A native product of float8 or int8 codes belongs in
`Formats.product`, which is given both operands as codes and scales, and nowhere else.

What is kept for the backward is the codes of the input, once for layers that read one input, and no rounded copy of a weight,
which is rounded again from the master weights: these stay fp32, are what an optimizer moves, and what a model is saved as.

Letters: R rows (tokens), I inputs, O outputs.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lm.context import autocast_dtype
from lm.linears.base import ReparametrizedLinear, SelectiveLinearMethod, check_patterns, dense_flops, is_named
from lm.precisions.noise import mixed

Kept = tuple[Tensor, ...]


class Gradients(NamedTuple):
    """dx_RI, dweight_OI, and that of a layer's own numbers where it learns them."""

    of_input: Tensor
    of_weight: Tensor
    of_own: Tensor | None = None


class Scheme(ABC):
    """How products are made. Tensors are fp32, or fp64 where the model is. It has no state, so that layers may share it; what a
    layer has of its own beside its weight, such as a scale, is given.

    shared: what is kept of an input does not depend on that, so that layers which read one input keep it once.
    """

    shared = True

    @abstractmethod
    def input(self, x_RI: Tensor, own: Tensor | None) -> Kept:
        """What is kept of an input, of which all three products are made."""

    @abstractmethod
    def forward(self, kept: Kept, weight_OI: Tensor, own: Tensor | None) -> Tensor:
        """y_RO."""

    @abstractmethod
    def backward(self, dy_RO: Tensor, kept: Kept, weight_OI: Tensor, own: Tensor | None, counter: Tensor) -> Gradients:
        """Gradients. counter: what decides the noise of this layer in this step."""


class ScaledCodes(NamedTuple):
    """Codes, and what a code of 1 counts, in a shape that the format knows."""

    codes: Tensor
    scale: Tensor


class Formats(Scheme):
    """A scheme in which each of weight, input and gradient has one format, in which both of its products see it."""

    @abstractmethod
    def weight(self, weight_OI: Tensor, own: Tensor | None) -> ScaledCodes: ...

    @abstractmethod
    def activation(self, x_RI: Tensor) -> ScaledCodes: ...

    @abstractmethod
    def gradient(self, dy_RO: Tensor, counter: Tensor) -> ScaledCodes: ...

    @abstractmethod
    def values(self, packed: ScaledCodes, dtype: torch.dtype) -> Tensor:
        """The numbers that codes stand for."""

    def round_output(self, y_RO: Tensor) -> Tensor:
        """The result as it goes on."""
        return y_RO

    def round_input_gradient(self, dx_RI: Tensor, counter: Tensor) -> Tensor:
        """The gradient of the input as it goes back."""
        return dx_RI

    def product(self, left: ScaledCodes, right: ScaledCodes, dtype: torch.dtype, turn: str = "") -> Tensor:
        """left right of what is packed; turn: of `left`, `right`, which are transposed before."""
        a, b = self.values(left, dtype), self.values(right, dtype)
        return (a.T if "left" in turn else a) @ (b.T if "right" in turn else b)

    def input(self, x_RI: Tensor, own: Tensor | None) -> Kept:
        return tuple(self.activation(x_RI))

    def forward(self, kept: Kept, weight_OI: Tensor, own: Tensor | None) -> Tensor:
        return self.round_output(
            self.product(ScaledCodes(*kept), self.weight(weight_OI, own), weight_OI.dtype, "right")
        )

    def backward(self, dy_RO: Tensor, kept: Kept, weight_OI: Tensor, own: Tensor | None, counter: Tensor) -> Gradients:
        gradient = self.gradient(dy_RO, counter)
        dx_RI = self.product(gradient, self.weight(weight_OI, own), dy_RO.dtype)
        dweight_OI = self.product(gradient, ScaledCodes(*kept), dy_RO.dtype, "left")
        return Gradients(self.round_input_gradient(dx_RI, counter + 1), dweight_OI)


class Products(torch.autograd.Function):
    """(scheme, x, n counters, n numbers of the layers' own or None, n weights) -> n results; of a scheme that is not `shared`,
    n is 1."""

    @staticmethod
    def forward(ctx: Any, scheme: Scheme, x: Tensor, *parts: Tensor | None) -> tuple[Tensor, ...]:
        count = len(parts) // 3
        owns, weights = parts[count : 2 * count], parts[2 * count :]
        dtype = autocast_dtype(x) or x.dtype
        with torch.autocast(x.device.type, enabled=False):
            kept = scheme.input(x.flatten(0, -2).to(torch.promote_types(x.dtype, torch.float32)), owns[0])
            made = [
                scheme.forward(kept, weight, own).to(dtype).view(*x.shape[:-1], -1)
                for weight, own in zip(weights, owns, strict=True)
                if weight is not None
            ]
        ctx.save_for_backward(*parts, *kept)
        ctx.scheme, ctx.shape, ctx.dtype, ctx.parts = scheme, x.shape, x.dtype, len(parts)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved, count = ctx.saved_tensors, len(grads)
        parts, kept = saved[: ctx.parts], saved[ctx.parts :]
        counters, owns, weights = parts[:count], parts[count : 2 * count], parts[2 * count :]
        with torch.autocast(grads[0].device.type, enabled=False):
            found = [
                ctx.scheme.backward(dy.flatten(0, -2).to(weight.dtype), kept, weight, own, counter)
                for dy, counter, own, weight in zip(grads, counters, owns, weights, strict=True)
            ]
        dx_RI = found[0].of_input
        for one in found[1:]:
            dx_RI = dx_RI + one.of_input
        dx = dx_RI.view(ctx.shape).to(ctx.dtype)
        return None, dx, *[None] * count, *[one.of_own for one in found], *[one.of_weight for one in found]


class RoundedLinear(ReparametrizedLinear):
    """x W^T + bias, in whose products numbers are rounded by a scheme.

    counter: what decides the noise of a step: of a seed, the layer's name and the step alone.
    """

    counter: Tensor

    def __init__(self, name: str, linear: nn.Linear, scheme: Scheme, seed: int) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.scheme = linear.weight, linear.bias, scheme
        self._key = zlib.crc32(f"{seed} {name}".encode())
        counter = torch.zeros((), dtype=torch.int64, device=linear.weight.device)
        self.register_buffer("counter", counter.fill_(mixed(self._key)), persistent=False)

    def own(self) -> Tensor | None:
        """What it has beside its weight, for its scheme."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        return self.together(x, (self,))[0]

    def together(self, x: Tensor, layers: "Sequence[RoundedLinear]") -> tuple[Tensor, ...]:
        """layer(x) of each, of which this is the first."""
        if not self.scheme.shared and len(layers) > 1:
            return tuple(layer(x) for layer in layers)
        counters, owns = [layer.counter for layer in layers], [layer.own() for layer in layers]
        made = Products.apply(self.scheme, x, *counters, *owns, *[layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        return tuple(y if b is None else y + b.to(y.dtype) for y, b in zip(made, biases, strict=True))

    def begin(self, step: int, turn: bool) -> None:
        self.counter.fill_(mixed(self._key + mixed(step)))

    def flops(self) -> float:
        """FLOP of a dense product: fewer bits are not fewer operations."""
        return dense_flops(self.weight)

    def dense(self) -> Tensor:
        return self.weight


# Layers of the blocks that stay exact: what chooses experts, and what makes filters
EXACT = ("router", "shared_gate", "filters")


class Rounding(SelectiveLinearMethod):
    """A method of lm/precisions: a way to hold the matrices of a model's blocks, for as long as it trains. Embedding, output
    head and norms are never rounded."""

    def check(self, names: list[str]) -> None:
        check_patterns("matrices", self.matrices, names, "rounding")

    def applies_to(self, name: str) -> bool:
        return super().applies_to(name) and not any(is_named(name, part) for part in EXACT)

    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """A layer that rounds, or the layer itself where it is not meant."""
        return self.rounded(name, linear) if self.applies_to(name) else linear

    @abstractmethod
    def rounded(self, name: str, linear: nn.Linear) -> RoundedLinear:
        """The layer that rounds."""
