"""SwiGLU and its gradients against the reference in fp64, on a CPU and by Triton, and a case worked by hand."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.swiglu import reference, swiglu

SHAPES = [(64, 64), (3, 5, 123), (1,), (0, 5), (1, 1), (2, 1031)]
# fp32: a few operations, 6e-8 each, with a difference 1 - sigmoid; bf16: one rounding of the result under Triton, 2^-8, or
# 2^-7 in its interpreter, which cuts the last bits, and up to three roundings by torch's own operations.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2**-6, "atol": 1e-5},
}


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.swiglu.triton", reason="needs triton", exc_type=ImportError)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    gate, up, dy = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    return gate.requires_grad_(), up.requires_grad_(), dy


def with_gradients(op: Callable[..., Tensor], gate: Tensor, up: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dgate, dup."""
    y = op(gate, up)
    return [y, *torch.autograd.grad(y, (gate, up), dy)]


def check(op: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    tensors = inputs(shape, dtype, device)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    for got, wanted in zip(with_gradients(op, *tensors), with_gradients(reference.swiglu, *wide), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_equals_the_reference(
    triton: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    check(triton.swiglu, shape, dtype, device)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(swiglu, shape, dtype, torch.device("cpu"))


def test_triton_takes_any_strides(triton: ModuleType, device: torch.device) -> None:
    gate, up, dy = inputs((7, 12), torch.float32, device)
    gate, up = gate.detach().T.requires_grad_(), up.detach().T.requires_grad_()
    for got, wanted in zip(
        with_gradients(triton.swiglu, gate, up, dy.T), with_gradients(reference.swiglu, gate, up, dy.T), strict=True
    ):
        torch.testing.assert_close(got, wanted, **TOLERANCES[torch.float32])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's numpy
def test_large_gates_neither_overflow_nor_lose_their_gradient(triton: ModuleType, device: torch.device) -> None:
    # silu is the identity far right of zero and nothing far left; exp(200) is past the range of fp32.
    gate = torch.tensor([200.0, -200.0], device=device, requires_grad=True)
    up = torch.full((2,), 3.0, device=device, requires_grad=True)
    y, dgate, dup = with_gradients(triton.swiglu, gate, up, torch.ones(2, device=device))
    assert (y.tolist(), dgate.tolist(), dup.tolist()) == ([600.0, 0.0], [3.0, 0.0], [200.0, 0.0])


def test_triton_keeps_its_two_inputs_alone(triton: ModuleType, device: torch.device) -> None:
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    gate, up, _ = inputs((4, 8), torch.float32, device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        triton.swiglu(gate, up)
    assert kept == [gate.data_ptr(), up.data_ptr()]


def test_gradients_of_the_reference() -> None:
    gate, up, _ = inputs((3, 5), torch.float64, torch.device("cpu"))
    assert torch.autograd.gradcheck(reference.swiglu, (gate, up))


def test_worked_by_hand(triton: ModuleType, device: torch.device) -> None:
    # silu(ln 3) = ln 3 * 3 / 4
    gate, up = torch.tensor([math.log(3)], device=device), torch.tensor([4.0], device=device)
    for y in (swiglu(gate.cpu(), up.cpu()), triton.swiglu(gate, up)):
        assert y.item() == pytest.approx(3 * math.log(3), rel=1e-6)


def test_bad_input_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="one dtype and shape"):
        swiglu(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="one dtype and shape"):
        swiglu(torch.ones(2), torch.ones(2).bfloat16())
