"""Pixelfly by hand: blocks of a butterfly, what is left of a matrix, and a product of low rank beside it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.linears import Pixelfly
from lm.linears.pixelfly import flat_butterfly, pattern, side_of, stretched
from lm.training.flops import flops_per_token
from lm.training.memory import saved_activation_bytes
from tests.lm.models import toy_model
from tests.lm.test_linears import batch_of, held
from tests.lm.test_spectral import random_layer


def test_a_flat_butterfly_by_hand() -> None:
    def drawn_as(side: int, stride: int) -> list[str]:
        return ["".join(".x"[there] for there in row) for row in flat_butterfly(side, stride)]

    assert drawn_as(4, 1) == ["x...", ".x..", "..x.", "...x"]
    assert drawn_as(4, 2) == ["xx..", "xx..", "..xx", "..xx"]
    assert drawn_as(4, 4) == ["xxx.", "xx.x", "x.xx", ".xxx"]
    assert drawn_as(8, 8)[5] == ".x..xx.x"  # 5, 4, 7 and 1
    assert drawn_as(1, 1) == ["x"]


def test_the_pattern_is_the_support_of_butterfly_factors_added_up() -> None:
    """Of each factor: the Kronecker product of an identity, a full square of 2, and an identity."""
    for side in (2, 4, 8, 16):
        summed = torch.eye(side)
        for digit in range(int(math.log2(side))):
            inner = torch.kron(torch.ones(2, 2), torch.eye(2**digit))
            summed = summed + torch.kron(torch.eye(side // 2 ** (digit + 1)), inner)
            assert torch.equal(torch.tensor(flat_butterfly(side, 2 ** (digit + 1))), summed > 0)


def test_a_pattern_is_stretched_over_other_sides() -> None:
    assert stretched(2, 4, 1) == [(0, 0), (0, 1), (1, 2), (1, 3)] and stretched(4, 2, 1) == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
    ]
    assert stretched(3, 3, 1) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    for rows, columns in ((5, 12), (9, 4), (7, 7), (1, 3)):  # nothing is left without a block
        found = stretched(rows, columns, 1)
        assert {row for row, _ in found} == set(range(rows)) and {column for _, column in found} == set(range(columns))


def test_the_greatest_stride_that_is_paid_for() -> None:
    assert [len(pattern(8, 8, most)) for most in (0, 8, 15, 16, 23, 24, 31, 32, 64)] == [
        8,
        8,
        8,
        16,
        16,
        24,
        24,
        32,
        32,
    ]
    assert [side_of(*sides, 16) for sides in ((48, 32), (40, 32), (30, 20), (6, 5))] == [16, 8, 10, 1]


@given(st.sampled_from([(8, 8, 2), (12, 8, 4), (8, 24, 4), (6, 5, 3), (4, 4, 4)]), st.integers(0, 3))
def test_blocks_multiply_as_the_masked_matrix(sides: tuple[int, int, int], seed: int) -> None:
    rows, columns, block = sides
    layer = random_layer(Pixelfly(block=block, density=0.6), rows, columns, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    side, expected = layer.side, torch.zeros(rows, columns)
    there = list(zip(layer.rows_K.tolist(), layer.columns_K.tolist(), strict=True))
    for (row, column), own in zip(there, layer.blocks.detach().split(side), strict=True):
        expected[row * side : (row + 1) * side, column * side : (column + 1) * side] = own
    expected = layer.mix * expected + (1 - layer.mix) * layer.up @ layer.down
    torch.testing.assert_close(layer.dense(), expected, rtol=1e-4, atol=1e-4)
    x = torch.randn(2, 3, columns, generator=generator)
    torch.testing.assert_close(layer(x), x @ expected.T, rtol=1e-3, atol=1e-3)


def test_pixelfly_begins_as_what_the_matrix_has_in_its_blocks() -> None:
    layer = random_layer(Pixelfly(block=1, density=0.5), 8, 8)
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(8, 8)
    mask[layer.rows_K, layer.columns_K] = 1
    # 3/4 of the half are 24 numbers, which pay for strides up to 4; and 1/4 of it for a rank of 8 / 16, so of 1
    assert mask.sum() == 24 and layer.down.shape == (1, 8)
    torch.testing.assert_close(layer.dense().detach(), weight * mask)


def test_what_pixelfly_has_and_costs() -> None:
    """Of 8 x 8 blocks 4 to a row, and a rank that a quarter of the budget pays for."""
    layer = random_layer(Pixelfly(block=4, density=0.7), 32, 32)
    assert len(layer.rows_K) == 32 and layer.down.shape == (2, 32)  # 0.175 * 1024 / 64 = 2.8
    assert layer.flops() == 6 * (32 * 16 + 2 * 64)
    dense, model = toy_model(seed=1), toy_model(seed=1)
    model.reparametrize(Pixelfly(block=4, density=0.3))
    own = sum(
        weight.numel() for each in model.held.values() for name, weight in each.named_parameters() if name != "mix"
    )
    matrices = dense.num_parameters() - (model.num_parameters() - own - len(model.held))
    assert (
        flops_per_token(dense, 12) - flops_per_token(model, 12) == pytest.approx(6 * (matrices - own))
        and own < matrices / 2
    )
    grows = [
        saved_activation_bytes(one, batch_of(one), 4) - saved_activation_bytes(one, batch_of(one), 2)
        for one in (dense, model)
    ]
    # beside what a dense pass keeps of two rows, no more than the results of the first thin products
    assert grows[0] < grows[1] <= grows[0] + 2 * 12 * 4 * sum(len(each.down) for each in model.held.values())


def test_the_first_values_of_a_thin_product_follow_from_seed_and_layer() -> None:
    one, other = held(Pixelfly).held, toy_model(seed=1)
    other.reparametrize(Pixelfly(seed=1))
    key, query = "blocks.0.attention.key", "blocks.0.attention.value"
    assert not torch.equal(one[key].down, other.held[key].down) and not torch.equal(one[key].down, one[query].down)
