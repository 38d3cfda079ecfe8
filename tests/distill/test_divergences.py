"""Divergences: what every one of them must do, beside torch's kl_div and through the chunked head, and small cases by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_cross_entropy import cpu
from kernels.linear_divergence import linear_divergence
from lm.config import Config, methods_of
from tasks.distill import divergences
from tasks.distill.divergences import ForwardKl, ReverseKl

EVERY = pytest.mark.parametrize("method", methods_of(divergences), ids=lambda method: method.__name__)
OF_KULLBACK_LEIBLER = pytest.mark.parametrize("method", [ForwardKl, ReverseKl])
SHAPES = [(8, 16), (5, 123), (1, 2)]


def logits(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher


@OF_KULLBACK_LEIBLER
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torch(method: type[Config], shape: tuple[int, int], temperature: float) -> None:
    student, teacher = logits(shape)
    s, t = (F.log_softmax(x / temperature, dim=-1) for x in (student, teacher))
    given, target = (t, s) if method is ReverseKl else (s, t)
    peer_T = F.kl_div(given, target, reduction="none", log_target=True).sum(1)
    mine_T = method(temperature=temperature)(student, teacher)
    # sums of up to 123 terms in another order
    torch.testing.assert_close(mine_T, temperature**2 * peer_T, rtol=1e-5, atol=1e-6)


@EVERY
def test_is_zero_for_equal_distributions_and_positive_else(method: type[Config]) -> None:
    student, teacher = logits((5, 123))
    # logits are free up to a constant
    assert method()(teacher + 3, teacher).tolist() == pytest.approx([0] * 5, abs=1e-5)
    assert (method()(student, teacher) > 0.1).all()


@EVERY
def test_a_token_depends_on_no_other(method: type[Config]) -> None:
    student, teacher = logits((5, 123))
    spoiled = student.clone().index_fill_(0, torch.tensor([0, 2]), torch.nan).requires_grad_()
    found_T = method()(spoiled, teacher)
    found_T[[1, 3, 4]].sum().backward()
    torch.testing.assert_close(found_T[[1, 3, 4]], method()(student, teacher)[[1, 3, 4]])
    assert (spoiled.grad[[1, 3, 4]] != 0).any(1).all()


@EVERY
@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
def test_in_chunks_it_is_the_mean_over_all_logits(
    method: type[Config], temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value and both gradients of the head that distillation uses, however its tokens are cut; float64."""
    monkeypatch.setattr(cpu, "chunk_tokens", lambda tokens, vocabulary, entry_bytes: chunk)
    generator = torch.Generator().manual_seed(0)
    x, weight, theirs, head = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((13, 6), (17, 6), (13, 4), (17, 4))
    )
    leaves, divergence = (x.requires_grad_(), weight.requires_grad_()), method(temperature=temperature)
    plain = divergence(x @ weight.T, theirs @ head.T).mean()
    chunked = linear_divergence(x, weight, theirs, head, divergence, 13)
    torch.testing.assert_close(chunked, plain)
    for mine, formula in zip(*(torch.autograd.grad(loss, leaves) for loss in (chunked, plain)), strict=True):
        torch.testing.assert_close(mine, formula)
        assert mine.norm() > 0.01


@EVERY
def test_gradient_equals_finite_differences(method: type[Config]) -> None:
    student, teacher = logits((3, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda x: method(temperature=2.0)(x, teacher), student.requires_grad_())


@OF_KULLBACK_LEIBLER
def test_the_gradient_keeps_its_size_at_high_temperature(method: type[Config]) -> None:
    # Hinton et al., section 2: at high temperature the gradient tends to (student - teacher) / V for centred logits.
    student, teacher = (x - x.mean(-1, keepdim=True) for x in logits((1, 16), torch.float64))
    student.requires_grad_()
    method(temperature=1e4)(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 16, rtol=1e-2, atol=1e-4)


def test_both_directions_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert ForwardKl()(student, teacher).item() == pytest.approx(forward, abs=1e-6)
    assert ReverseKl()(student, teacher).item() == pytest.approx(reverse, abs=1e-6)


def test_reverse_forgives_a_missed_mode_and_forward_does_not() -> None:
    teacher, student = torch.tensor([[5.0, 5.0, -5.0]]), torch.tensor([[5.0, -5.0, -5.0]])
    assert ForwardKl()(student, teacher) > 4 > 1 > ReverseKl()(student, teacher)
