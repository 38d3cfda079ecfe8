"""Norm and rotation and their gradients against the reference in fp64, by Triton and as two operators."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.norm_rope import norm_rotate, reference
from kernels.rms_norm import rms_norm
from kernels.rope import rotate

EPS = 1e-6
SHAPES = [(2, 8, 4, 64), (3, 7, 5, 6), (1, 1, 1, 2), (2, 0, 3, 4), (1, 13, 7, 30)]  # B T H E
CPU = torch.device("cpu")
# fp32: sums of up to 64 products, 6e-8 each, and differences of two such. bf16: one rounding of the result, 2^-8, or 2^-7
# under Triton's interpreter, which cuts the last bits.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5},
}


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.norm_rope.triton", reason="needs triton", exc_type=ImportError)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, batched: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_BTHE, weight in fp32, cos and sin."""
    B, T, _, E = shape
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(E, generator=generator)
    angles = torch.randn((B, 1, T, E // 2) if batched else (T, E // 2), generator=generator)
    cos, sin = angles.cos().to(device), angles.sin().to(device)
    return x.to(device, dtype).requires_grad_(), weight.to(device).requires_grad_(), cos, sin


def with_gradients(op: Callable[..., Tensor], x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
    """y, dx, dweight."""
    y = op(x, weight, cos, sin, EPS)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, torch.bfloat16).to(y.dtype)
    return [y, *torch.autograd.grad(y, (x, weight), dy)]


def wide(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_equals_the_reference(
    triton: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, batched: bool
) -> None:
    tensors = inputs(shape, dtype, device, batched)
    got = with_gradients(triton.norm_rotate, *tensors)
    assert [tensor.dtype for tensor in got] == [dtype, dtype, torch.float32]
    B, T, H, E = shape
    assert got[0].shape == (B, H, T, E) and got[0].transpose(1, 2).is_contiguous()
    for one, other in zip(got, with_gradients(reference.norm_rotate, *wide(tensors)), strict=True):
        torch.testing.assert_close(one.double(), other, **TOLERANCES[one.dtype])


def test_a_program_sums_the_weights_gradient_over_many_tiles(
    triton: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "PROGRAMS", 3)
    monkeypatch.setattr(triton, "TILE", 32)
    tensors = inputs((2, 13, 3, 24), torch.bfloat16, device)
    once, again = (with_gradients(triton.norm_rotate, *tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    wanted = with_gradients(reference.norm_rotate, *wide(tensors))
    torch.testing.assert_close(once[2].double(), wanted[2], **TOLERANCES[torch.float32])


def test_triton_takes_any_strides(triton: ModuleType, device: torch.device) -> None:
    x, weight, cos, sin = inputs((2, 5, 4, 8), torch.float32, device)
    strided = torch.cat((x, x), dim=3).detach()[..., ::2]
    got = triton.norm_rotate(strided, weight, cos, sin, EPS)
    torch.testing.assert_close(got, reference.norm_rotate(strided, weight, cos, sin, EPS), **TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_cpu_has_the_bits_of_a_norm_and_a_rotation(dtype: torch.dtype) -> None:
    def apart(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        return rotate(rms_norm(x, weight, eps).transpose(1, 2), cos, sin)

    tensors = inputs((2, 6, 3, 8), dtype, CPU)
    got, wanted = with_gradients(norm_rotate, *tensors), with_gradients(apart, *tensors)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    for one, other in zip(got, with_gradients(reference.norm_rotate, *wide(tensors)), strict=True):
        # in bf16 the norm and its gradient are rounded, too
        loose = TOLERANCES[dtype] if dtype == torch.float32 else {"rtol": 2**-5, "atol": 2**-5}
        torch.testing.assert_close(one.double(), other, **loose)


def test_gradients_of_the_reference() -> None:
    x, weight, cos, sin = wide(inputs((2, 3, 2, 6), torch.float32, CPU))
    assert torch.autograd.gradcheck(lambda x, weight: reference.norm_rotate(x, weight, cos, sin, EPS), (x, weight))


def test_worked_by_hand(triton: ModuleType, device: torch.device) -> None:
    # mean(9 + 16) = 12.5, with eps 3.5 the root is 4: (3/4 * 2, 4/4) = (1.5, 1), turned by 90 degrees (-1, 1.5)
    x, weight = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([2.0, 1.0])
    cos, sin = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    for op, place in ((norm_rotate, CPU), (triton.norm_rotate, device)):
        y = op(*(tensor.to(place) for tensor in (x, weight, cos, sin)), 3.5)
        torch.testing.assert_close(y.flatten().cpu(), torch.tensor([-1.0, 1.5]), rtol=1e-6, atol=0)


def test_bad_input_says_what_to_do() -> None:
    x, weight, cos, sin = inputs((1, 2, 1, 4), torch.float32, CPU)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\): make it \(4,\)"):
        norm_rotate(x, torch.ones(3), cos, sin, EPS)
    with pytest.raises(ValueError, match="width must be even, and cos and sin must end in half of it"):
        norm_rotate(x, weight, cos[:, :1], sin[:, :1], EPS)
