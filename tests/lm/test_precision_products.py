"""The three products of each way to round beside a reference written on its own: numbers of 8 bits by a table made by hand,
whole numbers by integer arithmetic in numpy, Hadamard's matrix by scipy, and autograd where it can be asked."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from lm.config import Config
from lm.precisions import BitSplit, Coat, Jetfire, MuS
from lm.precisions.float8 import E4M3, E5M2, cast
from lm.precisions.int4 import block_of, probabilities, rotated, sampled, split, step_of, through_lsq
from lm.precisions.jetfire import block_steps
from lm.precisions.mus import alpha_of
from lm.precisions.noise import drawn, key_of, mixed, mixed_each, uniform

ROWS, INPUTS, OUTPUTS = 40, 24, 36
# Sums of some 40 fp32 numbers of the order of 1 in another order
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def table(exponent_bits: int, fraction_bits: int, largest: float) -> np.ndarray:
    """All numbers of a small floating format from 0 to its largest: f 2^(2 - bias - bits) below the first power of two that has
    an exponent of its own, then (1 + f / 2^bits) 2^e."""
    bias, steps = 2 ** (exponent_bits - 1) - 1, 2**fraction_bits
    subnormal = [f / steps * 2.0 ** (1 - bias) for f in range(steps)]
    normal = [(1 + f / steps) * 2.0 ** (e - bias) for e in range(1, 2**exponent_bits) for f in range(steps)]
    return np.array([number for number in [*subnormal, *normal] if number <= largest])


TABLES = {E4M3: table(4, 3, 448.0), E5M2: table(5, 2, 57344.0)}


def by_table(values: np.ndarray, kind: torch.dtype) -> np.ndarray:
    """The nearest number of the table; of two equally near the one of even place, which is the one whose last bit is 0."""
    numbers = TABLES[kind]
    sizes = np.minimum(np.abs(values.astype(np.float64)), numbers[-1])
    below = np.minimum(np.searchsorted(numbers, sizes, side="right") - 1, len(numbers) - 2)
    down, up = sizes - numbers[below], numbers[below + 1] - sizes
    return np.sign(values) * numbers[below + ((up < down) | ((up == down) & (below % 2 == 1)))]


def layer(method: Config, name: str = "blocks.0.ffn.up") -> tuple[Any, Tensor, Tensor]:
    """(a layer that rounds, x, dy)."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(INPUTS, OUTPUTS, bias=False)
    with torch.no_grad():
        linear.weight.normal_(0, 0.02, generator=generator)
    x_RI = torch.randn(ROWS, INPUTS, generator=generator)
    x_RI[3, 5] = 30.0  # an outlier
    return method.build(name, linear), x_RI, torch.randn(ROWS, OUTPUTS, generator=generator) * 1e-4  # type: ignore[attr-defined]


def products(rounding: nn.Module, x_RI: Tensor, dy_RO: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, dx, dW) of autograd."""
    leaf = x_RI.clone().requires_grad_()
    made = rounding(leaf)
    made.backward(dy_RO)
    return made.detach().numpy(), leaf.grad.numpy(), rounding.weight.grad.numpy()  # type: ignore[union-attr]


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal to the rounding of fp32 sums."""
    most = np.abs(wanted).max()
    np.testing.assert_allclose(found / most, wanted / most, rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", [E4M3, E5M2])
def test_casts_by_a_table(kind: torch.dtype) -> None:
    numbers = TABLES[kind]
    assert len(numbers) == (127 if kind == E4M3 else 124)
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = np.concatenate([middles * (1 - 1e-6), middles, middles * (1 + 1e-6), numbers, [numbers[-1] * 9]])
    values = np.concatenate([near, -near]).astype(np.float32)[None]
    found = cast(torch.from_numpy(values), kind).float().numpy()
    np.testing.assert_array_equal(found, by_table(values, kind))
    assert found.max() == numbers[-1] and cast(torch.tensor([torch.inf, -torch.inf]), kind).float().tolist() == [
        numbers[-1], -numbers[-1],
    ]  # fmt: skip
    assert cast(torch.tensor([torch.nan]), kind).float().isnan().all()


def test_mus_by_its_formula() -> None:
    rounding, x_RI, dy_RO = layer(MuS(gradient_bits=10))
    weight_OI = rounding.weight.detach()  # what the layer has, also when it has grown
    assert alpha_of(weight_OI) == 2**-6 and float(rounding.alpha) == 2**-6  # 0.02 = 2^-5.64
    assert alpha_of(torch.full((2, 2), 3.0)) == 1
    x, w = by_table(x_RI.numpy(), E4M3), by_table(weight_OI.numpy() * 2**6, E4M3)
    g = by_table(dy_RO.numpy() * 2.0**10, E5M2)
    y, dx, dw = products(rounding, x_RI, dy_RO)
    assert_near(y, x @ w.T / 2**6)
    assert_near(dx, g @ w / 2**16)
    assert_near(dw, g.T @ x / 2**10)
    with torch.no_grad():  # static: a weight that has grown is cast with the scale that it began with
        rounding.weight.mul_(4)
    assert_near(rounding(x_RI).detach().numpy(), x @ by_table(weight_OI.numpy() * 2**6, E4M3).T / 2**6)


def test_coat_by_its_formula() -> None:
    rounding, x_RI, dy_RO = layer(Coat())

    def rounded(values: Tensor, kind: torch.dtype) -> np.ndarray:
        scale = np.float32(values.abs().max()) / np.float32(TABLES[kind][-1])
        return by_table(values.numpy() / scale, kind) * scale

    x, w, g = rounded(x_RI, E4M3), rounded(rounding.weight.detach(), E4M3), rounded(dy_RO, E5M2)
    y, dx, dw = products(rounding, x_RI, dy_RO)
    assert_near(y, x @ w.T)
    assert_near(dx, g @ w)
    assert_near(dw, g.T @ x)
    assert not rounding(torch.zeros(2, INPUTS)).any()


def whole_numbers(values: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(nearest whole numbers, the step of each entry), block by block."""
    codes, steps = np.zeros(values.shape, np.int64), np.ones(values.shape, np.float32)
    for row in range(0, values.shape[0], side):
        for column in range(0, values.shape[1], side):
            block = (slice(row, row + side), slice(column, column + side))
            steps[block] = np.abs(values[block]).max() / np.float32(127)
            codes[block] = np.rint(values[block] / steps[block])
    return codes, steps


def in_integers(left: tuple[np.ndarray, ...], right: tuple[np.ndarray, ...], side: int) -> np.ndarray:
    """left right^T: whole numbers are multiplied and summed within a block, and counted by both steps behind that."""
    (a, a_steps), (b, b_steps) = left, right
    total = np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], side):
        block = slice(first, first + side)
        counts = a[:, block] @ b[:, block].T
        assert counts.dtype == np.int64 and np.abs(counts).max() < 2**24
        total += counts * np.outer(a_steps[:, first], b_steps[:, first]).astype(np.float64)
    return total


@pytest.mark.parametrize("side", [8, 32])
def test_jetfire_in_integers(side: int) -> None:
    rounding, x_RI, dy_RO = layer(Jetfire(block=side, flow=False))
    x, w = whole_numbers(x_RI.numpy(), side), whole_numbers(rounding.weight.detach().numpy(), side)
    steps = whole_numbers(dy_RO.numpy(), side)[1]
    # which neighbour a gradient goes to is drawn; that it is one is tested below
    g = drawn(dy_RO / torch.from_numpy(steps), rounding.counter).numpy().astype(np.int64), steps
    assert (np.abs(g[0] - dy_RO.numpy() / steps) < 1 + 1e-4).all() and np.abs(g[0]).max() == 127
    turned = [tuple(part.T for part in each) for each in (x, w, g)]
    y, dx, dw = products(rounding, x_RI, dy_RO)
    assert_near(y, in_integers(x, w, side))
    assert_near(dx, in_integers(g, turned[1], side))
    assert_near(dw, in_integers(turned[2], turned[0], side))


def test_steps_of_blocks_by_hand() -> None:
    values = torch.tensor([[1.0, -127.0, 0.0], [2.0, 3.0, 0.0], [254.0, 1.0, -12.7]])
    torch.testing.assert_close(block_steps(values, 2), torch.tensor([[1.0, 1.0], [2.0, 0.1]]))


def test_jetfire_hands_on_int8_but_around_attention() -> None:
    exact: dict[str, np.ndarray] = {}
    for name in ("blocks.0.ffn.up", "blocks.0.attention.query", "blocks.0.attention.output"):
        plain = products(*layer(Jetfire(flow=False), name))
        flowing = products(*layer(Jetfire(), name))
        assert np.array_equal(plain[2], flowing[2])
        assert np.array_equal(plain[0], flowing[0]) == (name == "blocks.0.attention.query")
        assert np.array_equal(plain[1], flowing[1]) == (name == "blocks.0.attention.output")
        exact[name] = plain[0]
    codes, steps = whole_numbers(exact["blocks.0.ffn.up"], 32)
    np.testing.assert_allclose(products(*layer(Jetfire()))[0], codes * steps, rtol=1e-6, atol=0)


def test_hadamard_by_scipy() -> None:
    values = torch.randn(5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = scipy.linalg.hadamard(16) / 4
    wanted = values.numpy() @ scipy.linalg.block_diag(block, block, block)
    np.testing.assert_allclose(rotated(values, 16).numpy(), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotated(rotated(values, 16), 16), values)
    assert [block_of(48, 32), block_of(160, 32), block_of(1024, 32), block_of(1024, 31), block_of(7, 8)] == [
        16,
        32,
        32,
        16,
        1,
    ]


def straight(counted: Tensor) -> Tensor:
    """Rounded, with the gradient of what is rounded."""
    return counted + (counted.round() - counted).detach()


class OwnInt4:
    """The forward of INT4 in torch's own operators, straight through rounding; LSQ's factor is on the gradient of a step."""

    def __init__(self, rounding: Any, x_RI: Tensor) -> None:
        H = torch.block_diag(
            *[torch.tensor(scipy.linalg.hadamard(8) / math.sqrt(8), dtype=torch.float64)] * (INPUTS // 8)
        )
        self.x_RI = x_RI.double().requires_grad_()
        self.weight_OI = rounding.weight.detach().double().requires_grad_()
        self.steps = rounding.steps.detach().double().requires_grad_()
        self.hats = []
        for index, values in enumerate((self.x_RI, self.weight_OI)):
            turned = values @ H
            first = 2 * turned.detach().abs().mean() / math.sqrt(7)
            scaled = self.steps[index] / math.sqrt(turned.numel() * 7)
            logarithm = self.steps[index].detach() + scaled - scaled.detach()
            step = first * logarithm.exp()
            self.hats.append(step * straight((turned / step).clamp(-8, 7)))
        self.y_RO = self.hats[0] @ self.hats[1].T


def test_int4_forward_and_the_backward_of_what_is_drawn() -> None:
    rounding, x_RI, dy_RO = layer(BitSplit(block=8))
    with torch.no_grad():
        rounding.steps.copy_(torch.tensor([0.3, -0.4]))
    y, dx, dw = products(rounding, x_RI, dy_RO)
    own = OwnInt4(rounding, x_RI)
    assert_near(y, own.y_RO.detach().numpy())
    counts = (own.hats[0] / own.hats[0].detach().abs()[own.hats[0] != 0].min()).detach().round().unique()
    assert counts.min() >= -8 and counts.max() <= 7
    # with the gradient that was drawn in place of dy: one for x and another for the weight
    parts_2RO = split(dy_RO, rounding.counter)
    norms_2R = parts_2RO.norm(dim=2)
    for_x = sampled(parts_2RO, norms_2R, rounding.counter + 1).double()
    for_weight = sampled(parts_2RO, norms_2R * own.hats[0].detach().norm(dim=1).float(), rounding.counter + 2).double()
    of_x = torch.autograd.grad(own.y_RO, (own.x_RI, own.steps), for_x, retain_graph=True)
    of_weight = torch.autograd.grad(own.y_RO, (own.weight_OI, own.steps), for_weight)
    assert_near(dx, of_x[0].numpy())
    assert_near(dw, of_weight[0].numpy())
    assert_near(rounding.steps.grad.numpy(), np.array([of_x[1][0], of_weight[1][1]]))


def test_lsq_by_hand() -> None:
    # counted in steps of 0.5: -9 is cut to -8, 8 to 7, and 2.3 goes to 2, 0.3 below
    counted = torch.tensor([[-9.0, 8.0, 2.3, -1.0]])
    inside, of_step = through_lsq(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), counted, torch.tensor(0.5))
    assert inside.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    torch.testing.assert_close(of_step, torch.tensor(0.5 * (-8 + 14 - 0.9) / math.sqrt(4 * 7)))
    torch.testing.assert_close(step_of(torch.tensor([[1.0, -3.0]]), torch.tensor(0.0)), torch.tensor(4 / math.sqrt(7)))


def test_a_gradient_is_split_into_two_numbers_of_four_bits() -> None:
    dy_RO = torch.tensor([[7.0, -3.4, 0.5, 1.0 / 28]])
    coarse, fine = split(dy_RO, torch.tensor(5))
    assert coarse.tolist() == [[7.0, -3.0, 0.0, 0.0]]  # steps of 1, of two equally near the even one
    torch.testing.assert_close(fine * 14, (fine * 14).round())
    assert fine.abs().max() <= 0.5 + 1e-6
    drawn_ones = torch.stack([split(dy_RO, torch.tensor(n)).sum(0) for n in range(4000)])
    # a fine step is 1/14: its spread at most half of that, over 4000 draws, five times
    torch.testing.assert_close(drawn_ones.mean(0), dy_RO, rtol=0, atol=5 / 28 / math.sqrt(4000))


def test_probabilities_by_hand() -> None:
    # 3 of 6: 10 is certain; 2 are left for 1 + 1 + 2 + 0 + 0, by halves: 2 is certain too, and one for 1 + 1
    found = probabilities(torch.tensor([10.0, 1.0, 1.0, 2.0, 0.0, 0.0]), 3)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.5, 1.0, 0.0, 0.0]))
    # no more rows matter than may be taken
    assert probabilities(torch.tensor([3.0, 0.0, 1.0, 0.0]), 2).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert not probabilities(torch.zeros(4), 2).any()


def test_drawn_rows_are_half_and_their_sum_is_right_on_the_mean() -> None:
    parts_2RO = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    parts_2RO[1] *= 0.1
    matter_2R = parts_2RO.norm(dim=2)
    p_N = probabilities(matter_2R.flatten(), 8)
    assert float(p_N.sum()) == pytest.approx(8, rel=1e-5) and float(p_N.max()) <= 1
    draws = 6000
    every = torch.stack([sampled(parts_2RO, matter_2R, torch.tensor(n)) for n in range(draws)])
    # the variance of a row that counts g / p with chance p is g^2 (1 - p) / p
    spread = (parts_2RO.square() * ((1 - p_N) / p_N).view(2, 8, 1)).sum(0).sqrt()
    assert ((every.mean(0) - parts_2RO.sum(0)).abs() <= 5 * spread / math.sqrt(draws) + 1e-6).all()
    torch.testing.assert_close(every.std(0), spread, rtol=0.15, atol=1e-6)


def noise_of(values: Tensor, counter: int) -> Tensor:
    return uniform(key_of(values, torch.tensor(counter)), values.shape)


def test_noise_is_even_and_the_same_for_the_same() -> None:
    values = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    noise = noise_of(values, 3)
    assert noise.shape == values.shape and noise.min() >= 0 and noise.max() < 1
    counts = torch.histc(noise, 20, 0, 1)
    assert float(((counts - 500) ** 2 / 500).sum()) < 45  # chi squared of 19: below that but once in 1000
    rows = noise - noise.mean()
    assert (rows[:-1] * rows[1:]).mean().abs() < 5 / 12 / 100 and (
        rows[:, 1:] * rows[:, :-1]
    ).mean().abs() < 5 / 12 / 100
    assert torch.equal(noise, noise_of(values.clone(), 3))
    assert not torch.equal(noise, noise_of(values, 4))
    other = values.clone()
    other[0, 0] += 1e-3  # of other numbers it is other noise
    assert (noise == noise_of(other, 3)).float().mean() < 0.01


def test_mixing_is_the_same_by_number_and_by_tensor_and_loses_nothing() -> None:
    numbers = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    assert [mixed(n) for n in numbers] == mixed_each(torch.tensor(numbers)).tolist()
    assert mixed(1) != 1 and len({mixed(n) for n in range(10_000)}) == 10_000


@pytest.mark.parametrize("value", [-1.25, 0.0, 0.3, 3.0, 6.999])
def test_a_drawn_number_is_a_neighbour_and_right_on_the_mean(value: float) -> None:
    found = drawn(torch.full((20_000,), value), torch.tensor(1))
    assert set(found.tolist()) <= {math.floor(value), math.floor(value) + (value % 1 > 0)}
    part = value % 1
    assert float(found.mean()) == pytest.approx(value, abs=5 * math.sqrt(part * (1 - part) / 20_000) + 1e-6)
