"""Each optimizer beside an independent implementation or a case worked by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from lm.linears.base import roles_of
from lm.model import Decoder, ModelConfig
from lm.optimizers import (
    AdaBound,
    AdaMod,
    AdamW,
    DropMuon,
    Lamb,
    Lars,
    Lion,
    Muon,
    MuonEq,
    NorMuon,
    RAdam,
    ScheduleFree,
)
from lm.optimizers.adabound import bounds
from lm.optimizers.drop_muon import cut_at, layers_of
from lm.optimizers.muoneq import divided
from lm.optimizers.normuon import by_rows_
from lm.optimizers.radam import rectification
from tests.lm.test_optimizers import ROLES, set_gradients, values, weights

ROLES_OF_THREE = {f"blocks.{n}.up.weight": "matrix" for n in range(3)}


def one(method, start: list[float], grads: list[list[float]]) -> tuple[Tensor, torch.optim.Optimizer]:
    """A 1 x n matrix after these gradients."""
    weight = nn.Parameter(torch.tensor([start]))
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    for grad in grads:
        weight.grad = torch.tensor([grad])
        optimizer.step()
    return weight.detach(), optimizer


def test_lion_by_hand() -> None:
    # m0 = 0: sign(0.1 g1) = (1, -1); w = (1, 1)(1 - 0.1 * 0.5) - 0.1 (1, -1) = (0.85, 1.05); m1 = 0.01 g1 = (0.04, -0.02)
    # step 2: 0.9 m1 + 0.1 g2 = (0.036 - 0.1, -0.018 + 0.01) = (-, -); w = 0.95 (0.85, 1.05) + 0.1
    weight, optimizer = one(Lion(lr=0.1, weight_decay=0.5), [1.0, 1.0], [[4.0, -2.0], [-1.0, 0.1]])
    torch.testing.assert_close(weight, torch.tensor([[0.9075, 1.0975]]))
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["momentum"], torch.tensor([[0.0296, -0.0188]]))


def test_lamb_by_hand() -> None:
    # Step 1: the unbiased moments are g and g^2, so the update is sign(g) = (1, -1) and with decay 0.5: (1 + 1.5, -1 + 2)
    # = (2.5, 1). |w| = 5, |u| = sqrt(7.25): w - 0.1 * 5 / sqrt(7.25) * u.
    weight, _ = one(Lamb(lr=0.1, weight_decay=0.5, eps=1e-12), [3.0, 4.0], [[0.2, -7.0]])
    torch.testing.assert_close(weight, torch.tensor([[3.0, 4.0]]) - 0.5 / math.sqrt(7.25) * torch.tensor([[2.5, 1.0]]))
    capped, _ = one(Lamb(lr=0.1, weight_decay=0.0, eps=1e-12, max_norm=1.0), [3.0, 4.0], [[0.2, -7.0]])
    torch.testing.assert_close(capped, torch.tensor([[3.0, 4.0]]) - 0.1 / math.sqrt(2) * torch.tensor([[1.0, -1.0]]))


def test_lamb_moves_a_tensor_of_zeros() -> None:
    weight, _ = one(Lamb(lr=0.1), [0.0, 0.0], [[1.0, -1.0]])
    torch.testing.assert_close(weight, torch.tensor([[-0.1, 0.1]]), rtol=1e-4, atol=0)  # eps is 1e-6


@pytest.mark.parametrize("beta2", [0.95, 0.999])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_radam_equals_torch(beta2: float, weight_decay: float) -> None:
    mine, theirs = weights(), weights()
    ours = RAdam(lr=0.01, beta2=beta2, weight_decay=weight_decay).build(mine, ROLES)
    decays = [{"params": [w for _, w in theirs[:3]]}, {"params": [theirs[3][1]], "weight_decay": 0.0}]
    peer = torch.optim.RAdam(
        decays, lr=0.01, betas=(0.9, beta2), eps=1e-8, weight_decay=weight_decay, decoupled_weight_decay=True
    )
    for step in range(12):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    for a, b in zip(values(mine), values(theirs), strict=True):
        # torch adds eps before its bias correction: 1e-8 / sqrt(1 - beta2^t) beside roots of about 1
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_rectification_by_hand() -> None:
    # beta2 = 0.9: rho_inf = 19; rho_10 = 19 - 20 * 0.9^10 / (1 - 0.9^10) = 19 - 20 * 0.535348... = 8.293
    assert rectification(1, 0.9) is None
    rho = 19 - 20 * 0.9**10 / (1 - 0.9**10)
    assert rectification(10, 0.9) == pytest.approx(math.sqrt((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho)))
    assert rectification(10_000, 0.9) == pytest.approx(1)


def test_radam_takes_a_memory_that_is_rectified_at_last_and_no_shorter_one() -> None:
    """Up to 2/3 the variance counts as undefined for ever, so that every step would be momentum alone."""
    shortest = math.nextafter(2 / 3, 1)
    assert rectification(10_000, RAdam(beta2=shortest).beta2) is not None
    assert rectification(10_000, 2 / 3) is None
    for short in (2 / 3, 0.65):
        with pytest.raises(ValueError, match="beta2"):
            RAdam(beta2=short)


def test_schedule_free_equals_the_algorithm_in_x_y_and_z() -> None:
    method = ScheduleFree(lr=0.1, weight_decay=0.2)
    weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64))
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    x = z = weight.detach().clone()
    square, rates = torch.zeros_like(x), 0.0
    for step in range(1, 8):
        lr = 0.1 * min(1, step / 3)
        y = (1 - method.beta1) * z + method.beta1 * x
        torch.testing.assert_close(weight.detach(), y)
        grad = torch.sin(3 * y + step)
        square = method.beta2 * square + (1 - method.beta2) * grad**2
        rates += lr**2
        z = z - lr * (grad / (torch.sqrt(square / (1 - method.beta2**step)) + method.eps) + 0.2 * y)
        x = (1 - lr**2 / rates) * x + lr**2 / rates * z
        weight.grad = grad
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    optimizer.finish()
    torch.testing.assert_close(weight.detach(), x, rtol=1e-6, atol=1e-7)  # rate_sum is kept in fp32


def test_normuon_by_hand() -> None:
    # A 2 x 1 gradient without momentum: Newton-Schulz gives c (a, b) for g / |g| = (a, b), and c goes where norms are taken.
    # g1 = (3, 4): a row's mean square is its square, v = 0.05 (0.36, 0.64), so both rows are divided to one length. Each moves
    # by 0.2 lr, as the rms is. g2 = (4, -3): v = 0.05 (0.95 * 0.36 + 0.64, 0.95 * 0.64 + 0.36) = 0.05 (0.982, 0.968), and
    # (0.8 / sqrt(0.982), -0.6 / sqrt(0.968)) comes to an rms of 0.2.
    method = NorMuon(lr=0.5, momentum=0.0, weight_decay=0.0)
    weight = nn.Parameter(torch.zeros(2, 1))
    optimizer = method.build([("blocks.0.up.weight", weight)], ROLES)
    weight.grad = torch.tensor([[3.0], [4.0]])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[-0.1], [-0.1]]), rtol=1e-4, atol=0)
    before, weight.grad = weight.detach().clone(), torch.tensor([[4.0], [-3.0]])
    optimizer.step()
    rows = torch.tensor([[0.8 / math.sqrt(0.982)], [-0.6 / math.sqrt(0.968)]])
    moved = before - 0.5 * 0.2 * rows / rows.square().mean().sqrt()
    torch.testing.assert_close(weight.detach(), moved, rtol=1e-4, atol=0)
    assert optimizer.state[weight]["row_square"].shape == (2, 1)


def test_balance_by_hand() -> None:
    """Rows of norms 5 and 13, columns of sqrt(34) and sqrt(160)."""
    update = torch.tensor([[3.0, 4.0], [5.0, -12.0]])
    rows, columns = torch.tensor([[25.0], [169.0]]), torch.tensor([34.0, 160.0])
    torch.testing.assert_close(divided(update, rows, None), torch.tensor([[0.6, 0.8], [5 / 13, -12 / 13]]))
    torch.testing.assert_close(divided(update, None, columns), update / torch.tensor([34.0, 160.0]).sqrt())
    both = update / torch.tensor([[5.0], [13.0]]) / torch.tensor([34.0, 160.0]).sqrt()
    torch.testing.assert_close(divided(update, rows, columns), both)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("sides", ["rows", "columns", "both"])
def test_muoneq_is_muon_of_balanced_momentum(sides: str, nesterov: bool) -> None:
    """Two updates of two matrices of one width and another, the second by the momentum of both gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 9), (12, 9), (5, 5)]
    grads = [
        [torch.randn(shape, generator=generator) * torch.linspace(0.1, 5, shape[1]) for shape in shapes]
        for _ in range(2)
    ]
    found = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    method = MuonEq(lr=0.5, weight_decay=0.0, sides=sides, nesterov=nesterov)
    optimizer = method.build([(f"blocks.{n}.up.weight", weight) for n, weight in enumerate(found)], ROLES_OF_THREE)
    for some in grads:
        for weight, grad in zip(found, some, strict=True):
            weight.grad = grad.clone()
        optimizer.step()
    for weight, first, second in zip(found, *grads, strict=True):
        wanted = torch.zeros_like(weight)
        momentum = torch.zeros_like(weight)
        for grad in (first, second):
            momentum = 0.95 * momentum + 0.05 * grad
            update = 0.05 * grad + 0.95 * momentum if nesterov else momentum
            balanced = update
            if sides != "columns":
                balanced = balanced / update.norm(dim=1, keepdim=True)
            if sides != "rows":
                balanced = balanced / update.norm(dim=0)
            left, _, right = torch.linalg.svd(balanced, full_matrices=False)
            wanted -= 0.5 * 0.2 * max(update.shape) ** 0.5 * left @ right
        # Newton-Schulz leaves singular values in 0.7 to 1.2
        cosine = (weight * wanted).sum() / weight.norm() / wanted.norm()
        assert cosine > 0.97


@pytest.mark.parametrize("sides", ["rows", "columns"])
def test_muoneq_does_not_see_the_size_of_what_it_divides(sides: str) -> None:
    generator = torch.Generator().manual_seed(0)
    grad, found = torch.randn(6, 9, generator=generator), []
    sizes = torch.linspace(0.1, 9, 6)[:, None] if sides == "rows" else torch.linspace(0.1, 9, 9)
    for factor in (1.0, sizes):
        weight = nn.Parameter(torch.zeros(6, 9))
        optimizer = MuonEq(lr=0.5, momentum=0.0, sides=sides).build([("blocks.0.up.weight", weight)], ROLES)
        weight.grad = grad * factor
        optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)  # of what has 1e-8 beside it


def test_rows_are_divided_alike_however_a_matrix_lies_in_memory() -> None:
    """To the bit: a turned matrix lies by columns where it was made, and by rows on the ranks that it was sent to."""
    turned = torch.randn(37, 211, generator=torch.Generator().manual_seed(0)).T
    found = []
    for update in (turned, turned.contiguous()):
        square = torch.zeros(211, 1)
        (rows,) = by_rows_([update], [square], 0.95)
        found.append((rows, square, rows.square().sum()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("shape", [(64, 64), (16, 200), (200, 16)])
def test_normuon_moves_every_shape_by_exactly_its_rms(shape: tuple[int, int]) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = NorMuon(lr=1.0).build([("blocks.0.up.weight", weight)], ROLES)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)
    rows = weight.detach().square().mean(1).sqrt()  # of one size, each from its own first mean square
    torch.testing.assert_close(rows, torch.full_like(rows, 0.2), rtol=1e-4, atol=0)


def decoder(tied: bool) -> Decoder:
    return Decoder(
        ModelConfig(vocab_size=16, width=8, layers=3, heads=2, kv_heads=1, ffn_width=8, context=8, tied=tied), seed=0
    )


@pytest.mark.parametrize("tied", [True, False])
def test_drop_muon_touches_nothing_below_the_cut_and_all_above(tied: bool) -> None:
    model = decoder(tied)
    named = list(model.named_parameters())
    optimizer = DropMuon(whole=0.0, weight_decay=0.0).build(named, roles_of(model))
    ids = torch.arange(8)[None]
    for step in range(6):
        before = values(named)
        optimizer.begin(step)
        model(ids).square().mean().backward()
        optimizer.step()
        cut = cut_at(step, 3, 0.0, 0)
        moved = [not torch.equal(a, b) for a, b in zip(before, values(named), strict=True)]
        assert moved == [layer >= cut for layer in layers_of(named)] and cut > 0
        optimizer.zero_grad(set_to_none=True)
    optimizer.finish()
    assert all(weight.requires_grad for _, weight in named)


def test_drop_muon_with_whole_steps_only_is_muon() -> None:
    models = decoder(True), decoder(True)
    optimizers = [
        method.build(list(model.named_parameters()), roles_of(model))
        for method, model in zip((DropMuon(whole=1.0), Muon()), models, strict=True)
    ]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.begin(step)
            optimizer.zero_grad(set_to_none=True)
            model(torch.arange(8)[None]).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


def test_the_cuts_are_uniform() -> None:
    cuts = [cut_at(step, 4, 0.5, 0) for step in range(4000)]
    counts = [cuts.count(layer) for layer in range(5)]
    # binomial with n = 4000: 2000 and 500 each, standard deviations 32 and 21; four of them
    assert abs(counts[0] - 2000) < 128 and all(abs(count - 500) < 84 for count in counts[1:])


def test_another_seed_cuts_elsewhere() -> None:
    first, again, other = ([cut_at(step, 4, 0.5, seed) for step in range(50)] for seed in (0, 0, 1))
    assert first == again and first != other


def test_adamod_by_hand() -> None:
    # beta1 = beta2 = 0 and eps = 0: a rate is lr / |g|, and its direction g. beta3 = 0.5: s1 = lr / 2 |g1|, half of the first rate,
    # so the first update is lr / 2. g2 = (1, 4) after (2, 2): rates lr (1, 1/4), s2 = lr (1/8 + 1/2, 1/8 + 1/8) = lr (5/8, 1/4);
    # the first is held to 5/8 g, the second has its own 1/4, which moves it by lr.
    method = AdaMod(lr=0.1, beta1=0.0, beta2=0.0, beta3=0.5, eps=1e-12, weight_decay=0.0)
    weight, optimizer = one(method, [1.0, 1.0], [[2.0, -2.0]])
    torch.testing.assert_close(weight, torch.tensor([[0.95, 1.05]]))
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["exp_avg_rate"], torch.full((1, 2), 0.025))
    weight, _ = one(method, [1.0, 1.0], [[2.0, 2.0], [1.0, 4.0]])
    torch.testing.assert_close(weight, torch.tensor([[0.95 - 0.0625, 0.95 - 0.1]]))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamod_without_a_memory_of_rates_is_adamw(weight_decay: float) -> None:
    mine, theirs = weights(), weights()
    ours = AdaMod(lr=0.01, beta3=0.0, weight_decay=weight_decay).build(mine, ROLES)
    peer = AdamW(lr=0.01, weight_decay=weight_decay).build(theirs, ROLES)
    for step in range(6):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    for a, b in zip(values(mine), values(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the fused kernel's order of rounding


def test_adabound_by_hand() -> None:
    # gamma = 1, final_lr = 0.1: in update 1 rates lie in (0.05, 0.2), in update 2 in (0.0667, 0.15). beta1 = beta2 = 0: Adam's
    # rate is lr / |g| = 0.02 / |g|. g1 = (1, 0.25, 0.01): 0.02, 0.08, 2 become 0.05, 0.08, 0.2; g2 = (1, 0.25, 0.01) alike
    # 0.0667, 0.08, 0.15. Beside the rate at half of the schedule the bounds are halved, too.
    assert bounds(1, 0.1, 1.0) == pytest.approx((0.05, 0.2)) and bounds(2, 0.1, 1.0) == pytest.approx((1 / 15, 0.15))
    method = AdaBound(lr=0.02, final_lr=0.1, gamma=0.999999, beta1=0.0, beta2=0.0, eps=1e-12, weight_decay=0.0)
    grad = [1.0, 0.25, 0.01]
    weight, _ = one(method, [0.0, 0.0, 0.0], [grad])
    torch.testing.assert_close(weight, -torch.tensor([[0.05, 0.02, 0.002]]), rtol=1e-4, atol=0)
    weight, _ = one(method, [0.0, 0.0, 0.0], [grad, grad])
    torch.testing.assert_close(weight, -torch.tensor([[0.05 + 1 / 15, 0.04, 0.0035]]), rtol=1e-4, atol=0)
    half = nn.Parameter(torch.zeros(1, 3))
    optimizer = method.build([("blocks.0.up.weight", half)], ROLES)
    optimizer.param_groups[0]["lr"], half.grad = 0.01, torch.tensor([grad])
    optimizer.step()
    torch.testing.assert_close(half.detach(), -torch.tensor([[0.025, 0.01, 0.001]]), rtol=1e-4, atol=0)


def test_adabound_begins_as_adamw_and_ends_as_sgd_with_momentum() -> None:
    mine, theirs = weights(), weights()
    ours = AdaBound(final_lr=1.0, gamma=1e-9).build(mine, ROLES)
    peer = AdamW(lr=3e-3).build(theirs, ROLES)
    for step in range(6):
        for named, optimizer in ((mine, ours), (theirs, peer)):
            set_gradients(named, step)
            optimizer.step()
    for a, b in zip(values(mine), values(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # eps before its correction; the order of rounding
    low, high = bounds(10**9, 0.1, 1e-3)
    assert low == pytest.approx(high, rel=1e-5) and (low + high) / 2 == pytest.approx(0.1)


def test_lars_by_hand() -> None:
    # |w| = 5, |g| = 2, decay 0.1: the rate is 5 / (2 + 0.5) = 2, v1 = 0.1 * 2 (g + 0.1 w) = 0.2 (0.3, 2.4) = (0.06, 0.48);
    # then g = 0 moves by 0.9 v1 and what decays at the ratio of 1: v2 = 0.9 v1 + 0.1 * 0.1 w1.
    weight, optimizer = one(Lars(lr=0.1, weight_decay=0.1), [3.0, 4.0], [[0.0, 2.0]])
    torch.testing.assert_close(weight, torch.tensor([[2.94, 3.52]]))
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["momentum"], torch.tensor([[0.06, 0.48]]))
    weight, _ = one(Lars(lr=0.1, weight_decay=0.1), [3.0, 4.0], [[0.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(weight, torch.tensor([[2.94 - 0.054 - 0.0294, 3.52 - 0.432 - 0.0352]]))


def test_lars_moves_every_tensor_by_the_same_share_of_its_norm() -> None:
    for scale in (1e-3, 1.0, 1e3):
        weight, _ = one(Lars(lr=0.01, weight_decay=0.0), [3.0 * scale, 4.0 * scale], [[0.7 / scale, -1.0]])
        moved = torch.tensor([[3.0, 4.0]]) * scale - weight
        assert moved.norm().item() == pytest.approx(0.05 * scale, rel=1e-3)
    weight, _ = one(Lars(lr=0.1), [0.0, 0.0], [[1.0, -1.0]])
    torch.testing.assert_close(weight, torch.tensor([[-0.1, 0.1]]))
