"""Divergences: what every one of them must do, beside torch's kl_div, and small cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.config import Config, methods_of
from tasks.distill import divergences
from tasks.distill.divergences import ForwardKl, ReverseKl

EVERY = pytest.mark.parametrize("method", methods_of(divergences), ids=lambda method: method.__name__)
SHAPES = [(8, 16), (5, 123), (1, 2)]


def logits(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torch(method: type[Config], shape: tuple[int, int], temperature: float) -> None:
    student, teacher = logits(shape)
    s, t = (F.log_softmax(x / temperature, dim=-1) for x in (student, teacher))
    peer = F.kl_div(s, t, reduction="batchmean", log_target=True)
    if method is ReverseKl:
        peer = F.kl_div(t, s, reduction="batchmean", log_target=True)
    mine = method(temperature=temperature)(student, teacher, torch.ones(shape[0]))
    # sums of up to 123 terms in another order
    torch.testing.assert_close(mine, temperature**2 * peer, rtol=1e-5, atol=1e-6)


@EVERY
def test_is_zero_for_equal_distributions_and_positive_else(method: type[Config]) -> None:
    student, teacher = logits((5, 123))
    mask = torch.ones(5)
    # logits are free up to a constant
    assert method()(teacher + 3, teacher, mask).item() == pytest.approx(0, abs=1e-5)
    assert method()(student, teacher, mask) > 0.1


@EVERY
def test_only_the_masked_tokens_count(method: type[Config]) -> None:
    student, teacher = logits((5, 123))
    mask = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    expected = method()(student[mask > 0], teacher[mask > 0], torch.ones(3))
    spoiled = torch.where(mask[:, None] > 0, student, torch.nan).requires_grad_()
    loss = method()(spoiled, teacher, mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert (spoiled.grad[mask == 0] == 0).all() and (spoiled.grad[mask > 0] != 0).any()


@EVERY
def test_gradient_equals_finite_differences(method: type[Config]) -> None:
    student, teacher = logits((3, 5), torch.float64)
    mask = torch.tensor([1.0, 0.0, 1.0])
    assert torch.autograd.gradcheck(lambda x: method(temperature=2.0)(x, teacher, mask), student.requires_grad_())


@EVERY
def test_an_empty_mask_is_refused(method: type[Config]) -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        method()(*logits((2, 3)), torch.zeros(2))


@EVERY
def test_the_gradient_keeps_its_size_at_high_temperature(method: type[Config]) -> None:
    # Hinton et al., section 2: at high temperature the gradient tends to (student - teacher) / V for centred logits.
    student, teacher = (x - x.mean(-1, keepdim=True) for x in logits((1, 16), torch.float64))
    student.requires_grad_()
    method(temperature=1e4)(student, teacher, torch.ones(1)).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 16, rtol=1e-2, atol=1e-4)


def test_both_directions_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert ForwardKl()(student, teacher, torch.ones(1)).item() == pytest.approx(forward, abs=1e-6)
    assert ReverseKl()(student, teacher, torch.ones(1)).item() == pytest.approx(reverse, abs=1e-6)


def test_reverse_forgives_a_missed_mode_and_forward_does_not() -> None:
    teacher, student = torch.tensor([[5.0, 5.0, -5.0]]), torch.tensor([[5.0, -5.0, -5.0]])
    assert ForwardKl()(student, teacher, torch.ones(1)) > 4 > 1 > ReverseKl()(student, teacher, torch.ones(1))
