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
from tasks.distill.divergences import ForwardKl, Jsd, ReverseKl, Skewed
from tasks.distill.divergences.base import over_the_top

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


@pytest.mark.parametrize(
    "made",
    [m() for m in methods_of(divergences)] + [Jsd(beta=0.1), Jsd(beta=0.9, top_k=4), Skewed(direction="reverse"),
     Skewed(direction="reverse", alpha=0.8, temperature=2.0), Skewed(alpha=0.6, top_k=3, temperature=0.5)],
    ids=repr,
)  # fmt: skip
def test_the_slope_is_the_differences(made: Config) -> None:
    """By torch's gradcheck in fp64: what is made by a formula is what the value itself has."""
    student, teacher = logits((5, 9), torch.float64)
    assert torch.autograd.gradcheck(lambda x: made(x, teacher), (student.requires_grad_(),))


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


def test_jensen_and_shannon_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2), a quarter of the mixture the teacher's: (9/16, 7/16).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    of_teacher = 0.75 * math.log(0.75 * 16 / 9) + 0.25 * math.log(0.25 * 16 / 7)
    of_student = 0.5 * math.log(8 / 9) + 0.5 * math.log(8 / 7)
    found = Jsd(beta=0.25)(student, teacher).item()
    assert found == pytest.approx(0.25 * of_teacher + 0.75 * of_student, abs=1e-6)


@pytest.mark.parametrize(("beta", "limit"), [(1e-4, ForwardKl), (1 - 1e-4, ReverseKl)])
def test_jensen_and_shannon_tends_to_both_directions(beta: float, limit: type[Config]) -> None:
    """As GKD's section 2 has it: over beta, or over 1 - beta, to first order in what is left."""
    student, teacher = logits((5, 8), torch.float64)
    student, teacher = student / 3, teacher / 3
    found = Jsd(beta=beta)(student, teacher) / min(beta, 1 - beta)
    torch.testing.assert_close(found, limit()(student, teacher), rtol=5e-3, atol=0)


def test_it_is_bounded_where_one_finds_impossible_what_the_other_says() -> None:
    student, teacher = torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([[0.0, 60.0, 0.0]])
    assert ForwardKl()(student, teacher).item() > 50
    assert Jsd()(student, teacher).item() == pytest.approx(math.log(2), abs=1e-4)
    for direction in ("forward", "reverse"):
        assert Skewed(direction=direction)(student, teacher).item() == pytest.approx(math.log(10), abs=1e-4)


def test_skewed_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): mixtures 0.2 x teacher + 0.8 x student = (0.55, 0.45), and turned round (0.7, 0.3).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)
    reverse = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)
    assert Skewed(alpha=0.2)(student, teacher).item() == pytest.approx(forward, abs=1e-6)
    assert Skewed(alpha=0.2, direction="reverse")(student, teacher).item() == pytest.approx(reverse, abs=1e-6)


def test_the_top_by_hand() -> None:
    # The teacher's two likeliest of four are the last and the first; the student has 0.1 and 0.4 there, and 0.5 in between.
    teacher, student = torch.tensor([[0.3, 0.1, 0.2, 0.4]]).log(), torch.tensor([[0.4, 0.2, 0.3, 0.1]]).log()
    mine, theirs = over_the_top(student, teacher, 2)
    torch.testing.assert_close(theirs.exp(), torch.tensor([[0.4, 0.3, 0.3]]))
    torch.testing.assert_close(mine.exp(), torch.tensor([[0.1, 0.4, 0.5]]))


def test_difficulty_by_hand() -> None:
    # KL of (3/4, 1/4) to (1/2, 1/2) is 0.1308: 1 - e^-0.1308 = 0.1226. The student of (0.9, 0.1) has 0.3251 nats of log 2.
    teacher, even, sure = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2), torch.tensor([[math.log(9), 0.0]])
    plain = ForwardKl()(even, teacher).item()
    assert ForwardKl(gap=2.0)(even, teacher).item() == pytest.approx(plain * (1 - math.exp(-plain)) ** 2, rel=1e-5)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    found = ForwardKl(uncertainty=0.5)(sure, teacher).item() / ForwardKl()(sure, teacher).item()
    assert found == pytest.approx((entropy / math.log(2)) ** 0.5, rel=1e-5)
    assert ForwardKl(uncertainty=3.0)(even, teacher).item() == pytest.approx(plain, rel=1e-6)


@EVERY
@pytest.mark.parametrize(
    "more", [{"gap": 1.5}, {"uncertainty": 2.0}, {"gap": 0.5, "uncertainty": 0.5, "top_k": 4}], ids=repr
)
def test_difficult_tokens_weigh_more_and_their_weights_have_no_gradient(
    method: type[Config], more: dict[str, float]
) -> None:
    """The gradient of each token is its own without difficulty, times its weight; weights lie between 0 and 1."""
    student, teacher = logits((6, 123), torch.float64)
    top = {"top_k": more["top_k"]} if "top_k" in more else {}
    found = []
    for made in (method(**more), method(**top)):
        leaf = student.clone().requires_grad_()
        nats_T = made(leaf, teacher)
        nats_T.sum().backward()
        found.append((nats_T.detach(), leaf.grad))
    (weighed_T, slope), (plain_T, whole) = found
    weight_T = weighed_T / plain_T
    assert ((weight_T > 0) & (weight_T < 1)).all() and weight_T.std() > 1e-3
    torch.testing.assert_close(slope, whole * weight_T[:, None])
    if "uncertainty" not in more:  # what is further apart weighs more
        assert torch.equal(weight_T.argsort(), plain_T.argsort())
    assert method(**more)(teacher, teacher).abs().max() < 1e-6


@EVERY
@pytest.mark.parametrize("k", [1, 4, 122])
def test_coarser_distributions_are_no_further_apart(method: type[Config], k: int) -> None:
    """Data processing: to tell less tokens apart takes nothing but distance, and with all but one told apart nothing."""
    student, teacher = logits((5, 123), torch.float64)
    whole, coarse = method()(student, teacher), method(top_k=k)(student, teacher)
    assert (coarse <= whole + 1e-12).all() and (coarse > 0).all()
    if k == 122:
        torch.testing.assert_close(coarse, whole)
    assert torch.equal(method(top_k=123)(student, teacher), whole)
