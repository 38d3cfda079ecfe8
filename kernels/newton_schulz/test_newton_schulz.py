"""The batched iteration against the plain one, and what both are for: singular values near 1, the same directions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.newton_schulz import batches, cost, cpu, newton_schulz, reference

SHAPES = [(64, 64), (160, 432), (432, 160), (5, 123), (1, 7), (1, 1), (64, 64)]
# Five steps of products of up to 432 fp32 terms, in another order of summation.
ATOL = 1e-5


def matrices(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("coefficients", ["jordan", "polar_express"])
def test_equals_the_reference_in_order_whatever_the_mix_of_shapes(coefficients: reference.Coefficients) -> None:
    for got, matrix in zip(newton_schulz(matrices(), 5, coefficients), matrices(), strict=True):
        assert got.shape == matrix.shape
        torch.testing.assert_close(got, reference.newton_schulz(matrix, 5, coefficients), rtol=0, atol=ATOL)


def test_singular_values_end_in_a_band_around_one() -> None:
    # A singular value below about 0.01 of the norm needs more than five steps. The smallest of a square random matrix is
    # that small; of these it is not.
    oblong = [matrix for seed in range(3) for matrix in matrices(seed) if matrix.shape != (64, 64)]
    for got in newton_schulz(oblong, 5):
        values = torch.linalg.svdvals(got)
        assert values.min() > 0.6 and values.max() < 1.3


def test_directions_are_kept() -> None:
    # U S' V^T shares U and V with U S V^T, so U^T got V is diagonal.
    matrix = matrices()[3]
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ newton_schulz([matrix], 5)[0] @ vh.T
    off_diagonal = turned - torch.diag(torch.diag(turned))
    assert off_diagonal.abs().max() < 1e-4


def test_one_step_worked_by_hand() -> None:
    # 1 x 1: the normed entry is 1, so a step gives 3.4445 - 4.7750 + 2.0315 = 0.7010; the sign is kept.
    assert newton_schulz([torch.tensor([[-8.0]])], 1)[0].item() == pytest.approx(-0.7010, abs=1e-5)


def test_one_step_of_polar_express_worked_by_hand() -> None:
    # 1 x 1: the entry is 1 / 1.01, and 1.01 is in every coefficient, so x = 1 / 1.01^2 in the polynomial as it is printed
    x = 1 / 1.01**2
    by_hand = 8.28721201814563 * x - 23.595886519098837 * x**3 + 17.300387312530933 * x**5
    assert newton_schulz([torch.tensor([[-8.0]])], 1, "polar_express")[0].item() == pytest.approx(-by_hand, abs=1e-5)


def test_polar_express_comes_to_the_polar_factor() -> None:
    """The factor of torch's SVD: near it after five steps, as near as rounding allows after eight and more."""
    for matrix in matrices():
        if matrix.shape == (64, 64):  # a smallest singular value of 1e-4 of the norm: it lags
            continue
        u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        values = torch.linalg.svdvals(newton_schulz([matrix], 5, "polar_express")[0])
        assert values.min() > 0.84 and values.max() < 1.125  # the optimum for 0.001 of the norm and more
        for steps in (8, 11):
            got = newton_schulz([matrix], steps, "polar_express")[0]
            torch.testing.assert_close(got, (u @ vh).float(), rtol=0, atol=ATOL)


def test_zero_stays_zero_and_scale_does_not_matter() -> None:
    zero, matrix = torch.zeros(4, 6), matrices()[3]
    plain, scaled, nothing = newton_schulz([matrix, matrix * 1024, zero], 5)
    assert torch.equal(nothing, zero)
    torch.testing.assert_close(plain, scaled, rtol=0, atol=ATOL)


def test_half_precision_is_computed_in_fp32_on_a_cpu() -> None:
    matrix = matrices()[3].bfloat16()
    torch.testing.assert_close(
        newton_schulz([matrix], 5)[0], reference.newton_schulz(matrix.float(), 5), rtol=0, atol=ATOL
    )


def test_in_bf16_directions_are_kept_and_values_stay_in_the_band() -> None:
    """What a GPU computes. bf16 rounds to 2^-9: 15 products of it leave a few percent."""
    oblong = [matrix for matrix in matrices() if matrix.shape != (64, 64)]
    for got, exact in zip(cpu.newton_schulz(oblong, 5, torch.bfloat16), newton_schulz(oblong, 5), strict=True):
        assert got.dtype == torch.bfloat16
        assert 0 < (got.float() - exact).norm() < 0.05 * exact.norm()
        values = torch.linalg.svdvals(got.float())
        assert values.min() > 0.6 and values.max() < 1.3


def test_the_norm_of_a_large_matrix_is_no_sum_in_bf16() -> None:
    # 2^20 ones: a norm of 1024, and one singular value of 1, so a step gives 0.7010 of it
    (got,) = cpu.newton_schulz([torch.ones(1024, 1024)], 1, torch.bfloat16)
    torch.testing.assert_close(got.float(), torch.full((1024, 1024), 0.7010 / 1024), rtol=0.02, atol=0)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4), (1, 5), (9, 9)]), max_size=20), st.integers(1, 40))
def test_a_batch_alone_is_the_batch_among_others(shapes: list[tuple[int, int]], entries: int) -> None:
    """Equal to the bit, so that ranks which each do some batches find what one process finds."""
    whole, before = [torch.randn(shape) for shape in shapes], cpu.BATCH
    cpu.BATCH = entries
    try:
        found = batches(shapes)
        assert sorted(index for batch in found for index in batch) == list(range(len(shapes)))
        together = newton_schulz(whole, 2)
        for batch in found:
            assert len({tuple(sorted(shapes[index])) for index in batch}) == 1
            assert len(batch) == 1 or sum(whole[index].numel() for index in batch) <= entries
            for index, alone in zip(batch, newton_schulz([whole[index] for index in batch], 2), strict=True):
                assert torch.equal(alone, together[index])
    finally:
        cpu.BATCH = before


def test_a_gpu_has_fewer_batches_to_launch() -> None:
    # the hidden matrices of gpu-124m: 28 of 768 x 768 fit, and 10 of 768 x 2048
    shapes = [(768, 768)] * 48 + [(2048, 768)] * 36
    assert [len(batch) for batch in batches(shapes, on_gpu=True)] == [28, 20, 10, 10, 10, 6]
    assert len(batches(shapes)) == 25


def test_cost_by_hand() -> None:
    # 2 x 3: x x^T is 2 * 2*2*3, its square 2 * 2*2*2, the product with x 2 * 2*2*3
    assert cost([(2, 3)]) == cost([(3, 2)]) == 24 + 16 + 24
    assert cost([(2, 3), (1, 1)]) == 64 + 6
