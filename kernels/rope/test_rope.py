"""The rotation and its gradient against the reference in fp64, on a CPU and by Triton, and what a rotation implies."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.rope import reference, rotate

SHAPES = [(2, 4, 8, 64), (3, 5, 7, 6), (1, 1, 1, 2), (2, 3, 0, 4), (1, 7, 13, 30)]  # B H T E
# fp32: a difference of two products of numbers up to 4, 6e-8 each. bf16: one rounding of the result, 2^-8, or 2^-7
# under Triton's interpreter, which cuts the last bits.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 1e-6, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-6},
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.rope.triton", reason="needs triton", exc_type=ImportError)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, batched: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x in the layout of a projection (B, T, H, E), cos, sin, and the gradient of the result."""
    B, H, T, E = shape
    generator = torch.Generator().manual_seed(0)
    x_BTHE, dy = torch.randn(B, T, H, E, generator=generator), torch.randn(shape, generator=generator)
    angles = torch.randn((B, 1, T, E // 2) if batched else (T, E // 2), generator=generator)
    x = x_BTHE.to(device, dtype).transpose(1, 2).requires_grad_()
    return x, angles.cos().to(device, dtype), angles.sin().to(device, dtype), dy.to(device, dtype)


def with_gradient(op: Callable[..., Tensor], x: Tensor, cos: Tensor, sin: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dx."""
    y = op(x, cos, sin)
    return [y, *torch.autograd.grad(y, x, dy)]


def check(
    op: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, batched: bool
) -> None:
    tensors = inputs(shape, dtype, device, batched)
    x, *others = (tensor.detach().double() for tensor in tensors)
    wanted = with_gradient(reference.rotate, x.requires_grad_(), *others)
    for got, expected in zip(with_gradient(op, *tensors), wanted, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, **TOLERANCES[dtype])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_equals_the_reference(
    triton: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, batched: bool
) -> None:
    check(triton.rotate, shape, dtype, device, batched)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype, batched: bool) -> None:
    check(rotate, shape, dtype, CPU, batched)


def test_triton_takes_any_strides(triton: ModuleType, device: torch.device) -> None:
    x, cos, sin, dy = inputs((2, 4, 6, 8), torch.float32, device)
    wide = torch.cat((x, x), dim=1).detach()
    for strided in (wide[:, ::2], wide[:, :, :, ::2].mT.contiguous().mT):
        half = strided.shape[-1] // 2
        got = triton.rotate(strided, cos[:, :half], sin[:, :half])
        wanted = reference.rotate(strided, cos[:, :half], sin[:, :half])
        torch.testing.assert_close(got, wanted, **TOLERANCES[torch.float32])


def test_fp32_tables_keep_the_dtype_of_x(triton: ModuleType, device: torch.device) -> None:
    x, cos, sin, _ = inputs((2, 4, 8, 64), torch.bfloat16, device)
    wanted = reference.rotate(x.double(), cos.double(), sin.double())
    for got in (triton.rotate(x, cos.float(), sin.float()), rotate(x.cpu(), cos.float().cpu(), sin.float().cpu())):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double().cpu(), wanted.cpu(), **TOLERANCES[torch.bfloat16])


def test_gradient_of_the_reference() -> None:
    x, cos, sin, _ = inputs((2, 3, 4, 6), torch.float64, CPU)
    assert torch.autograd.gradcheck(lambda x: reference.rotate(x, cos, sin), (x,))


def test_worked_by_hand() -> None:
    # Pairs (1, 3) and (2, 4): the first turned by 90 degrees to (-3, 1), the second by 180 to (-2, -4).
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    y = rotate(x, torch.tensor([[0.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
    assert y.flatten().tolist() == [-3.0, -2.0, 1.0, -4.0]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12).map(lambda half: 2 * half))
)
def test_lengths_are_kept_and_the_opposite_angle_turns_back(shape: tuple[int, ...]) -> None:
    x, cos, sin, _ = inputs(shape, torch.float32, CPU)
    y = rotate(x, cos, sin)
    # the squares of cos and sin add to 1 within 1e-7, and a row has up to 24 summands
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(rotate(y, cos, -sin), x, rtol=1e-5, atol=1e-5)


def test_no_gradient_is_no_graph_and_the_same_numbers() -> None:
    x, cos, sin, _ = inputs((2, 3, 4, 6), torch.float32, CPU)
    with torch.no_grad():
        plain = rotate(x, cos, sin)
    assert not plain.requires_grad and torch.equal(plain, rotate(x, cos, sin))


def test_compiles_without_a_graph_break() -> None:
    tensors = inputs((2, 3, 4, 6), torch.float32, CPU)
    compiled = torch.compile(rotate, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(with_gradient(compiled, *tensors), with_gradient(rotate, *tensors), strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCES[torch.float32])


@pytest.mark.parametrize(("width", "table"), [(7, 3), (8, 8), (8, 3)])
def test_bad_widths_say_what_to_do(width: int, table: int) -> None:
    with pytest.raises(ValueError, match="width must be even, and cos and sin must end in half of it"):
        rotate(torch.ones(1, 1, 2, width), torch.ones(2, table), torch.ones(2, table))
