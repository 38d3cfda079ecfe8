"""What a matrix of a quantized model multiplies, in whole numbers too: each token's inputs by a step of their own.

Letters: I inputs, G inputs that share a step.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.quantized.base import PackedMatrix


class Rounding(NamedTuple):
    """bits: of a whole number, symmetric about 0. group: inputs of a token that share a step, 0 for all of them."""

    bits: int
    group: int

    @classmethod
    def of(cls, description: Any) -> "Rounding":
        """The inverse of _asdict(). Raises ValueError for what does not say it."""
        try:
            found = cls(**description)
        except TypeError as error:
            raise ValueError(f"quantization: a rounding: {error}") from None
        if not (
            isinstance(found.bits, int) and 2 <= found.bits <= 8 and isinstance(found.group, int) and found.group >= 0
        ):
            raise ValueError(f"quantization: a rounding of {description}: it has 2 to 8 bits and a group of 0 or more")
        return found


def quantize(x: Tensor, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """(codes, steps) of x, (..., I): int8 of that shape, and float32, (..., N). Codes are the nearest of 2^bits - 1 equal steps
    of a group, from minus to plus its largest magnitude; the step of a group that is all 0 is 1."""
    inputs, most = x.shape[-1], 2 ** (rounding.bits - 1) - 1
    group = rounding.group or inputs
    groups = F.pad(x.detach().float(), (0, -inputs % group)).unflatten(-1, (-1, group))
    steps = groups.abs().amax(-1, keepdim=True) / most
    steps = torch.where(steps > 0, steps, 1.0)
    codes = (groups / steps).round().to(torch.int8)
    return codes.flatten(-2)[..., :inputs], steps.squeeze(-1)


def dequantize(codes: Tensor, steps: Tensor, rounding: Rounding) -> Tensor:
    """What `codes_of` has counted, in float32."""
    inputs = codes.shape[-1]
    return codes.float() * steps.repeat_interleave(rounding.group or inputs, dim=-1)[..., :inputs]


def fake_quantize(x: Tensor, rounding: Rounding, columns_I: Tensor | None = None) -> Tensor:
    """x, (..., I), of which each token is what `codes_of` counts of it. columns_I: what inputs are divided by before, and
    multiplied by behind."""
    scaled = x.detach().float() if columns_I is None else x.detach().float() / columns_I
    found = dequantize(*quantize(scaled, rounding), rounding)
    return (found if columns_I is None else found * columns_I).to(x.dtype)


def round_inputs(layer: nn.Module, rounding: Rounding, columns_I: Tensor | None = None) -> None:
    """Let a layer see what `rounded` gives in place of its input, from now on. Gradients pass as if nothing were rounded."""
    layer.register_forward_pre_hook(partial(_straight, rounding=rounding, columns_I=columns_I))


def _straight(layer: nn.Module, given: tuple[Tensor], rounding: Rounding, columns_I: Tensor | None) -> tuple[Tensor]:
    [x] = given
    columns_I = None if columns_I is None else columns_I.to(x.device)
    return (
        (x + (fake_quantize(x, rounding, columns_I) - x).detach(),)
        if x.requires_grad
        else (fake_quantize(x, rounding, columns_I),)
    )


def is_rounding(hook: Any) -> bool:
    """Whether a hook that a layer calls before its product is that of `round_inputs`."""
    return isinstance(hook, partial) and hook.func is _straight


def check_exact_inputs(model: nn.Module) -> None:
    """Raises ValueError for a model that rounds what its matrices multiply: for formats that cannot say so."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    if any(map(is_rounding, hooks)):
        raise ValueError(
            "the model rounds its inputs (quantize.activation), which no format of export says: make it with "
            "quantize.activation={name: exact}"
        )


def columns_of(packed: PackedMatrix) -> Tensor | None:
    """What the columns of a matrix were multiplied by, in float32; None: nothing."""
    columns = packed.parts().get("columns")
    return None if columns is None else columns.float()


def sees_rounded(name: str, layer: nn.Module) -> bool:
    """Whether a layer of this name is one whose inputs are rounded: a matrix of a block. A table is looked up by whole numbers
    already; a router is no more than a row an expert, and decides between experts that are nearly equal; so does the predictor
    of tokens that go through a layer."""
    return name.startswith("blocks.") and isinstance(layer, nn.Linear) and not name.endswith((".router", ".predictor"))


def round_inputs_of(model: nn.Module, rounding: Rounding, columns: Mapping[str, Tensor]) -> None:
    """Let the layers of `sees_rounded` see rounded inputs. columns: by a weight's name, what its columns were multiplied by."""
    for name, layer in model.named_modules():
        if sees_rounded(name, layer):
            found = columns.get(f"{name}.weight")
            round_inputs(layer, rounding, None if found is None else found.float())
