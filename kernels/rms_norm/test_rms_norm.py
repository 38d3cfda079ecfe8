"""RMSNorm and its gradients against the reference in fp64, on a CPU and by Triton, and what the formula implies."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.rms_norm import reference, rms_norm

EPS = 1e-6
SHAPES = [(64, 64), (3, 5, 123), (1, 7), (7, 1), (1, 1), (0, 16), (37, 1000)]
# fp32: a sum of up to 1000 products, 6e-8 each, and differences of such sums. bf16: one rounding of the result, 2^-8, or
# 2^-7 under Triton's interpreter, which cuts the last bits.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5},
}


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.rms_norm.triton", reason="needs triton", exc_type=ImportError)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(size, generator=generator).to(device, dtype) for size in (shape, shape[-1:], shape))
    return x.requires_grad_(), weight.requires_grad_(), dy


def with_gradients(op: Callable[..., Tensor], x: Tensor, weight: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dx, dweight."""
    y = op(x, weight, EPS)
    return [y, *torch.autograd.grad(y, (x, weight), dy)]


def by_triton(module: ModuleType) -> Callable[..., Tensor]:
    """Triton's, in the dtype of x if none is given."""
    return lambda x, weight, eps, dtype=None: module.rms_norm(x, weight, eps, dtype or x.dtype)


def check(op: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    tensors = inputs(shape, dtype, device)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    for got, wanted in zip(with_gradients(op, *tensors), with_gradients(reference.rms_norm, *wide), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_equals_the_reference(
    triton: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    check(by_triton(triton), shape, dtype, device)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(rms_norm, shape, dtype, torch.device("cpu"))


def test_a_program_sums_the_weights_gradient_over_many_tiles(
    triton: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "PROGRAMS", 3)
    monkeypatch.setattr(triton, "TILE", 256)
    check(by_triton(triton), (53, 96), torch.float32, device)
    once, again = (with_gradients(by_triton(triton), *inputs((53, 96), torch.float32, device)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_an_fp32_weight_gets_an_fp32_gradient(triton: ModuleType, device: torch.device) -> None:
    # as under autocast: the norms stay in fp32 while the projections give bf16
    x, weight, dy = inputs((40, 24), torch.bfloat16, device)
    weight = weight.detach().float().requires_grad_()
    for op in (by_triton(triton), rms_norm):
        y, dx, dweight = with_gradients(op, x, weight, dy)
        assert (y.dtype, dx.dtype, dweight.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        wanted = with_gradients(reference.rms_norm, x.detach().double().requires_grad_(), weight, dy.double())[2]
        torch.testing.assert_close(dweight, wanted, **TOLERANCES[torch.float32])


def test_a_norm_in_the_dtype_of_its_reader_is_the_cast_of_the_norm(triton: ModuleType, device: torch.device) -> None:
    """Results to the bit, gradients in the dtypes of x and weight: as under autocast with a stream in fp32."""
    x, weight, dy = inputs((40, 24), torch.float32, device)
    for op in (by_triton(triton), rms_norm):
        y = op(x, weight, EPS, torch.bfloat16)
        # the interpreter cuts bits where the cast rounds them
        exact = device.type == "cuda" or op is rms_norm
        tolerance = {"rtol": 0, "atol": 0} if exact else TOLERANCES[torch.bfloat16]
        torch.testing.assert_close(y, op(x, weight, EPS).bfloat16(), **tolerance)
        got = torch.autograd.grad(y, (x, weight), dy.bfloat16())
        assert [grad.dtype for grad in got] == [torch.float32, torch.float32]
        wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
        wanted = torch.autograd.grad(reference.rms_norm(*wide, EPS), wide, dy.bfloat16().double())  # type: ignore[arg-type, call-arg]
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one.double(), other, **TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_in_fp32(triton: ModuleType, dtype: torch.dtype, device: torch.device) -> None:
    # 300^2 is past the range of fp16 (65504), and 4096 summands of one size are past the 8 bits of bf16.
    x, weight = torch.full((2, 4096), 300.0, dtype=dtype), torch.ones(4096, dtype=dtype)
    for op, place in ((rms_norm, torch.device("cpu")), (by_triton(triton), device)):
        assert torch.equal(op(x.to(place), weight.to(place), EPS).cpu(), torch.ones_like(x))


def test_gradients_of_the_reference() -> None:
    x, weight, _ = inputs((3, 5), torch.float64, torch.device("cpu"))
    assert torch.autograd.gradcheck(lambda x, weight: reference.rms_norm(x, weight, EPS), (x, weight))


def test_worked_by_hand() -> None:
    # mean(9 + 16) = 12.5, and with eps 3.5 the root is 4.
    y = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 1.0]), 3.5)
    torch.testing.assert_close(y, torch.tensor([[1.5, 1.0]]), rtol=1e-6, atol=0)


def test_zeros_stay_zero_with_a_finite_gradient() -> None:
    x, weight, dy = inputs((2, 8), torch.float32, torch.device("cpu"))
    y, dx, _ = with_gradients(rms_norm, torch.zeros_like(x).requires_grad_(), weight, dy)
    # there the slope is weight / sqrt(eps)
    assert not y.any()
    torch.testing.assert_close(dx, dy * weight.detach() / EPS**0.5, rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(rows=st.integers(1, 9), width=st.integers(1, 40), power=st.integers(-8, 8))
def test_the_scale_of_a_row_does_not_matter(rows: int, width: int, power: int) -> None:
    x, weight, _ = inputs((rows, width), torch.float32, torch.device("cpu"))
    torch.testing.assert_close(rms_norm(x * 2.0**power, weight, 0.0), rms_norm(x, weight, 0.0), rtol=1e-6, atol=0)


def test_rows_of_a_transposed_tensor() -> None:
    x, weight, _ = inputs((4, 3, 8), torch.float32, torch.device("cpu"))
    turned = x.detach().transpose(0, 1).requires_grad_()
    dy = torch.ones(3, 4, 8)
    for got, wanted in zip(
        with_gradients(rms_norm, turned, weight, dy),
        with_gradients(reference.rms_norm, turned, weight, dy),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, **TOLERANCES[torch.float32])


def test_no_gradient_is_no_graph_and_the_same_numbers() -> None:
    x, weight, _ = inputs((4, 8), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        plain = rms_norm(x, weight, EPS)
    assert not plain.requires_grad and torch.equal(plain, rms_norm(x, weight, EPS))


def test_compiles_without_a_graph_break() -> None:
    tensors = inputs((4, 8), torch.float32, torch.device("cpu"))
    compiled = torch.compile(rms_norm, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(with_gradients(compiled, *tensors), with_gradients(rms_norm, *tensors), strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCES[torch.float32])


def test_bad_input_says_what_to_do(triton: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"weight has shape \(3,\): make it \(4,\)"):
        rms_norm(torch.ones(2, 4), torch.ones(3), EPS)
    monkeypatch.setattr(triton, "MAX_WIDTH", 8)
    with pytest.raises(ValueError, match="norm a smaller width"):
        triton.rms_norm(torch.ones(2, 9), torch.ones(9), EPS, torch.float32)
