"""The chunked divergence and both gradients against the plain formula, on the CPU and along a GPU's path."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.linear_cross_entropy import chunks, triton
from kernels.linear_divergence import linear_divergence, reference

SHAPES = [(64, 32, 24, 128), (300, 24, 24, 67), (1, 1, 2, 1), (3, 5, 7, 2)]  # the second is two chunks on a CPU
# As kernels/linear_cross_entropy's test has them, and for the same reasons
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def squares(logits_CV: Tensor, teacher_CV: Tensor) -> Tensor:
    """A number a token whose derivative no softmax makes small."""
    return (logits_CV - teacher_CV).square().mean(1) + logits_CV.logsumexp(1)


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x_TD, weight_VD, teacher_x_TE, teacher_weight_VE."""
    T, D, E, V = shape
    generator = torch.Generator().manual_seed(T + D + V)
    sizes = [(T, D), (V, D), (T, E), (V, E)]
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def both(function, given: list[Tensor], denominator: float) -> list[Tensor]:
    """The loss and the gradients of the student."""
    leaves = [tensor.requires_grad_() for tensor in given[:2]]
    loss = function(*leaves, *given[2:], squares, denominator)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return float((got.double().cpu() - wanted).norm()) <= tolerance * (float(wanted.norm()) + 1e-3)


@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    path: str,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = inputs(shape, dtype)
    wanted = both(reference.linear_divergence, [tensor.double() for tensor in given], 3.0)
    if path == "gpu":
        monkeypatch.setattr(triton, "CHUNK_BYTES", 4 * shape[3] * 90)  # 90 tokens
        monkeypatch.setattr(chunks, "cpu", triton)
        given = [tensor.to(device) for tensor in given]
    got = both(linear_divergence, given, 3.0)
    assert got[0].dtype == torch.float32 and got[1].dtype == got[2].dtype == dtype
    assert all(close(mine, value, TOLERANCE[dtype]) for mine, value in zip(got, wanted, strict=True))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 300), st.integers(0, 300))
def test_parts_with_the_denominator_of_the_whole_add_up(first: int, rest: int) -> None:
    given = inputs((first + rest, 4, 4, 9))
    whole = both(linear_divergence, given, first + rest)
    parts = []
    for part in (slice(0, first), slice(first, None)):
        x, weight, teacher_x, teacher = (tensor.detach() for tensor in given)
        parts.append(both(linear_divergence, [x[part], weight, teacher_x[part], teacher], first + rest))
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), whole[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts[0][2] + parts[1][2], whole[2], rtol=1e-4, atol=1e-5)


def test_the_gradient_follows_what_is_made_of_the_loss_and_is_there_once() -> None:
    given = inputs((5, 4, 4, 9))
    _, dx, dweight = both(linear_divergence, given, 1.0)
    x, weight = (tensor.detach().requires_grad_() for tensor in given[:2])
    loss = linear_divergence(x, weight, *given[2:], squares, 1.0)  # type: ignore[arg-type, call-arg]
    (-3 * loss).backward(retain_graph=True)
    assert (
        x.grad is not None
        and weight.grad is not None
        and torch.equal(x.grad, -3 * dx)
        and torch.equal(weight.grad, -3 * dweight)
    )
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_only_what_is_wanted_has_a_gradient() -> None:
    x, weight, *teacher = inputs((5, 4, 4, 9))
    frozen = linear_divergence(x, weight.requires_grad_(), *teacher, squares, 1.0)  # type: ignore[arg-type, call-arg]
    assert torch.autograd.grad(frozen, weight)[0].any()
    with torch.no_grad():
        assert not linear_divergence(x.requires_grad_(), weight, *teacher, squares, 1.0).requires_grad  # type: ignore[arg-type, call-arg]


def test_autocast_multiplies_in_bf16_and_compares_in_fp32() -> None:
    given = inputs((64, 32, 24, 128))
    wanted = both(reference.linear_divergence, [tensor.double() for tensor in given], 3.0)
    seen: list[torch.dtype] = []

    def watched(logits_CV: Tensor, teacher_CV: Tensor) -> Tensor:
        seen.extend([logits_CV.dtype, teacher_CV.dtype, (logits_CV @ teacher_CV.T).dtype])
        return squares(logits_CV, teacher_CV)

    x, weight = (tensor.requires_grad_() for tensor in given[:2])
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_divergence(x, weight, *given[2:], watched, 3.0)  # type: ignore[arg-type, call-arg]
    got = [loss.detach(), *torch.autograd.grad(loss, (x, weight))]
    assert set(seen) == {torch.float32} and all(tensor.dtype == torch.float32 for tensor in got)
    assert all(close(mine, value, TOLERANCE[torch.bfloat16]) for mine, value in zip(got, wanted, strict=True))
    assert not close(got[2], wanted[2], TOLERANCE[torch.float32])  # so bf16 it was


@pytest.mark.parametrize("wrong", range(4))
def test_shapes_that_do_not_fit(wrong: int) -> None:
    given = inputs((5, 4, 6, 9))
    given[wrong] = torch.zeros(7, 8)
    with pytest.raises(ValueError, match="words"):
        linear_divergence(*given, squares, 1.0)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_token_counts_for_its_weight(shape: tuple[int, int, int, int]) -> None:
    """Weights of 0 and 1 leave the divergence of those that count, and a number makes it as many times as much."""
    given = inputs(shape)
    counts = torch.rand(shape[0], generator=torch.Generator().manual_seed(1)) < 0.5
    x, weight, teacher_x, teacher = given
    some = both(linear_divergence, [x[counts], weight, teacher_x[counts], teacher], 3.0)

    found = both(partial(linear_divergence, weights_T=counts), [tensor.detach() for tensor in given], 3.0)
    wanted = torch.zeros_like(found[1])
    wanted[counts] = some[1]
    assert all(close(mine, value.double(), 1e-5) for mine, value in zip(found, (some[0], wanted, some[2]), strict=True))
    twice, once = (
        both(partial(linear_divergence, weights_T=w), given, 3.0) for w in (torch.full((shape[0],), 2.0), None)
    )
    assert all(close(mine, 2 * value.double(), 1e-6) for mine, value in zip(twice, once, strict=True))
