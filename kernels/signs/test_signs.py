"""Signs: bit by bit against the reference, and the scale is the best there is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.signs import BLOCK, compress, decompress, reference


@settings(deadline=None, max_examples=20, derandomize=True)
@given(blocks=st.integers(1, 4), seed=st.integers(0, 999))
def test_equals_the_reference(blocks: int, seed: int) -> None:
    values = torch.randn(blocks * BLOCK, generator=torch.Generator().manual_seed(seed))
    values[::7] = 0
    bits, scales = compress(values)
    expected_bits, expected_scales = reference.compress(values.tolist(), BLOCK)
    assert bits.tolist() == expected_bits
    torch.testing.assert_close(scales, torch.tensor(expected_scales))
    assert decompress(bits, scales).tolist() == reference.decompress(bits.tolist(), scales.tolist(), BLOCK)


def test_one_bit_and_a_scale_a_block() -> None:
    bits, scales = compress(torch.randn(8 * BLOCK, generator=torch.Generator().manual_seed(0)))
    assert bits.nbytes + scales.nbytes == BLOCK + 8 * 4


@pytest.mark.parametrize("factor", [0.9, 0.99, 1.01, 1.1])
def test_no_other_scale_loses_less(factor: float) -> None:
    values = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    bits, scales = compress(values)
    assert (decompress(bits, scales) - values).norm() < (decompress(bits, scales * factor) - values).norm()
