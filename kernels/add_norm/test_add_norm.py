"""Sum and norm and their gradients against the reference in fp64, by Triton and as two operators, in every mix of dtypes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.add_norm import add_norm, reference
from kernels.rms_norm import rms_norm

EPS = 1e-6
SHAPES = [(64, 64), (3, 5, 123), (1, 7), (7, 1), (0, 16), (37, 1000)]
CPU = torch.device("cpu")
FP32, BF16 = torch.float32, torch.bfloat16
# of x, of what is added, of the norm: a stream in fp32 and one in bf16 under autocast, and no autocast
DTYPES = [(FP32, BF16, BF16), (BF16, BF16, BF16), (FP32, FP32, FP32)]
# fp32: a sum of up to 1000 products, 6e-8 each, and differences of such sums. bf16: roundings of the sum, of its norm and of
# dmore, 2^-8 each, or 2^-7 under Triton's interpreter, which cuts the last bits.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    FP32: {"rtol": 1e-5, "atol": 1e-5},
    BF16: {"rtol": 2**-6, "atol": 2**-6},
}


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.add_norm.triton", reason="needs triton", exc_type=ImportError)


def inputs(shape: tuple[int, ...], x_dtype: torch.dtype, more_dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """x, more, weight."""
    generator = torch.Generator().manual_seed(0)
    x, more, weight = (torch.randn(size, generator=generator).to(device) for size in (shape, shape, shape[-1:]))
    return [x.to(x_dtype).requires_grad_(), more.to(more_dtype).requires_grad_(), weight.requires_grad_()]


def with_gradients(op: Callable[..., Any], tensors: list[Tensor], *dtype: torch.dtype) -> list[Tensor]:
    """sum, normed, dx, dmore, dweight, of results that are both read."""
    total, normed = op(*tensors, EPS, *dtype)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator).to(x.device, BF16).to(x.dtype) for x in (total, normed)]
    return [total, normed, *torch.autograd.grad((total, normed), tensors, grads)]


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_equals_the_reference(
    triton: ModuleType, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    x_dtype, more_dtype, dtype = dtypes
    tensors = inputs(shape, x_dtype, more_dtype, device)
    got = with_gradients(triton.add_norm, tensors, dtype)
    wanted = with_gradients(reference.add_norm, [tensor.detach().double().requires_grad_() for tensor in tensors])
    assert [tensor.dtype for tensor in got] == [
        torch.promote_types(x_dtype, more_dtype),
        dtype,
        x_dtype,
        more_dtype,
        FP32,
    ]
    for name, one, other in zip(("sum", "normed", "dx", "dmore", "dweight"), got, wanted, strict=True):
        loose = TOLERANCES[BF16 if BF16 in (one.dtype, x_dtype) else FP32]
        # a weight's gradient is a sum over rows: their roundings add
        scale = len(tensors[0].flatten(0, -2)) ** 0.5 if name == "dweight" and x_dtype == BF16 else 1.0
        torch.testing.assert_close(one.double(), other, rtol=loose["rtol"], atol=loose["atol"] * max(scale, 1.0))


def test_triton_gives_what_the_two_operators_give(triton: ModuleType, device: torch.device) -> None:
    """The sum that is kept in bf16 is the one that is normed."""
    tensors = inputs((16, 48), BF16, BF16, device)
    total, normed = triton.add_norm(*tensors, EPS, FP32)
    torch.testing.assert_close(normed, rms_norm(total, tensors[2], EPS, FP32), **TOLERANCES[FP32])


def test_a_program_sums_the_weights_gradient_over_many_tiles(
    triton: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = pytest.importorskip("kernels.rms_norm.triton")
    monkeypatch.setattr(triton, "PROGRAMS", 3)
    monkeypatch.setattr(norms, "TILE", 256)
    once, again = (with_gradients(triton.add_norm, inputs((53, 96), FP32, BF16, device), BF16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    wanted = with_gradients(
        reference.add_norm, [x.detach().double().requires_grad_() for x in inputs((53, 96), FP32, BF16, device)]
    )
    torch.testing.assert_close(once[4].double(), wanted[4], **TOLERANCES[FP32])


def test_a_result_that_nobody_reads_has_no_gradient(triton: ModuleType, device: torch.device) -> None:
    tensors = inputs((5, 12), FP32, BF16, device)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    for index in (0, 1):
        got = torch.autograd.grad(triton.add_norm(*tensors, EPS, FP32)[index].sum(), tensors[0])
        wanted = torch.autograd.grad(reference.add_norm(*wide, EPS)[index].sum(), wide[0])  # type: ignore[arg-type, call-arg]
        torch.testing.assert_close(got[0].double(), wanted[0], **TOLERANCES[FP32])


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_cpu_has_the_bits_of_a_sum_and_a_norm(dtype: torch.dtype) -> None:
    x, more, weight = inputs((6, 24), dtype, dtype, CPU)
    got = with_gradients(add_norm, [x, more, weight])
    wanted = with_gradients(lambda x, more, weight, eps: (x + more, rms_norm(x + more, weight, eps)), [x, more, weight])
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_gradients_of_the_reference() -> None:
    tensors = [tensor.detach().double().requires_grad_() for tensor in inputs((3, 5), FP32, FP32, CPU)]
    assert torch.autograd.gradcheck(lambda *given: reference.add_norm(*given, EPS), tensors)  # type: ignore[call-arg]


def test_worked_by_hand(triton: ModuleType, device: torch.device) -> None:
    # 1 + 2 and 3 + 1; mean(9 + 16) = 12.5, and with eps 3.5 the root is 4
    x, more, weight = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([2.0, 1.0])
    for op, place in ((add_norm, CPU), (triton.add_norm, device)):
        total, normed = op(x.to(place), more.to(place), weight.to(place), 3.5, FP32)
        assert total.tolist() == [[3.0, 4.0]]
        torch.testing.assert_close(normed.cpu(), torch.tensor([[1.5, 1.0]]), rtol=1e-6, atol=0)


def test_bad_input_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\) and what is added \(4,\)"):
        add_norm(torch.ones(2, 4), torch.ones(4), torch.ones(4), EPS)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\): make it \(4,\)"):
        add_norm(torch.ones(2, 4), torch.ones(2, 4), torch.ones(3), EPS)
