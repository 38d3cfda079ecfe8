"""Quantization methods: what every one of them must do, and small cases worked by hand."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.calibration import upper_factor
from lm.config import Config, methods_of
from lm.quantized import Packed
from tasks.quantize import methods
from tasks.quantize.methods import Gptq, Int4Group, Int8

EVERY = pytest.mark.parametrize("method", methods_of(methods), ids=lambda method: method.__name__)
SHAPES = [(64, 64), (5, 123), (1, 1), (1, 33), (40, 2)]


def steps_of(packed: Packed) -> Tensor:
    """The step of each entry, (O, I)."""
    columns = packed.shape[1]
    return packed.scales.float().repeat_interleave(packed.group or columns, dim=1)[:, :columns]


def normal(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_within_half_a_step(weight: Tensor, packed: Packed) -> None:
    # Codes count the stored steps, so only the float32 rounding of the result (2^-24 of it) comes on top.
    error = (packed.dequantize().double() - weight.double()).abs()
    assert (error <= 0.5 * steps_of(packed) + weight.abs() * 2**-22).all()


@EVERY
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 1000),
    magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    offset=st.sampled_from([0.0, 1.0, -1000.0]),
)
def test_no_entry_moves_by_more_than_half_a_step(
    method: type[Config], shape: tuple[int, int], seed: int, magnitude: float, offset: float
) -> None:
    weight = (normal(shape, seed) + offset) * magnitude
    packed = method()(weight, None)
    assert packed.shape == shape and packed.dequantize().shape == shape
    assert_within_half_a_step(weight, packed)


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_no_longer_than_the_spread_needs(method: type[Config], shape: tuple[int, int]) -> None:
    # Half a step alone would allow any step. 1% for its rounding to bfloat16 and for that of the minimum.
    weight = normal(shape)
    packed = method()(weight, None)
    spread = 2 * weight.abs().max() / (2**packed.bits - 2)
    assert steps_of(packed).max() <= 1.01 * spread


@EVERY
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_what_is_quantized_already_does_not_change(method: type[Config], shape: tuple[int, int]) -> None:
    # Not of rows of 2: a pair far closer to each other than to 0 has a minimum that bfloat16 rounds by several steps.
    once = method()(normal(shape), None)
    twice = method()(once.dequantize(), None)
    assert torch.equal(once.dequantize(), twice.dequantize())


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_is_exact_and_a_constant_nearly(method: type[Config], shape: tuple[int, int]) -> None:
    assert torch.equal(method()(torch.zeros(shape), None).dequantize(), torch.zeros(shape))
    for value in (0.3, -7.1, 1e-20):
        weight = torch.full(shape, value)
        # a bfloat16 scale or minimum is within 2^-8 of the value
        torch.testing.assert_close(method()(weight, None).dequantize(), weight, rtol=2**-8, atol=0)


@EVERY
def test_one_large_entry_costs_only_those_that_share_its_step(method: type[Config]) -> None:
    weight = normal((4, 128))
    spoiled = weight.clone()
    spoiled[2, 100] = 1000.0
    other_rows = [0, 1, 3]
    assert torch.equal(
        method()(weight, None).dequantize()[other_rows], method()(spoiled, None).dequantize()[other_rows]
    )


@EVERY
def test_nan_is_refused(method: type[Config]) -> None:
    with pytest.raises(ValueError, match="NaN"):
        method()(torch.tensor([[1.0, torch.nan]]), None)


@EVERY
def test_the_weight_is_left_alone_and_the_dtype_does_not_matter(method: type[Config]) -> None:
    weight = normal((5, 123)).half()
    before = weight.clone()
    assert torch.equal(method()(weight, None).codes, method()(weight.double(), None).codes)
    assert torch.equal(weight, before)


def digest(packed: Packed) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(packed.tensors("w").items()):
        whole.update(name.encode() + tensor.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


# Of weight(i, j) = ((37 i + 11 j) mod 97 - 48) / 64, exact in every float; a new digest makes old files look different.
GOLDEN = {
    "int8": "0d290700bc1e26f3",
    "int4_group": "9163b52a571279e2",
    "gptq": "9163b52a571279e2",
}  # without calibration


@EVERY
def test_golden_bytes(method: type[Config]) -> None:
    weight = ((37 * torch.arange(5)[:, None] + 11 * torch.arange(123)) % 97 - 48) / 64
    assert digest(method()(weight, None)) == GOLDEN[method().name]


def test_int8_by_hand() -> None:
    # max |row| is 127, so the step is 1: codes 128 + round(row), and 2.5 rounds to even.
    packed = Int8()(torch.tensor([[127.0, -127.0, 2.5, 0.4]]), None)
    assert packed.codes.tolist() == [[255, 1, 130, 128]]
    assert packed.dequantize().tolist() == [[127.0, -127.0, 2.0, 0.0]]


def test_int4_by_hand() -> None:
    # Groups of 2: [-1, 14] has minimum -1 and step 1; [3, 3.75] has minimum 3 and step 0.05; [5] is its own minimum.
    packed = Int4Group(group=2)(torch.tensor([[-1.0, 14.0, 3.0, 3.75, 5.0]]), None)
    assert packed.codes.tolist() == [[0 + 15 * 16, 0 + 15 * 16, 0]]
    assert packed.minima.tolist() == [[-1.0, 3.0, 5.0]]
    # 0.05 as bfloat16 is 0.050048828125
    assert packed.scales.tolist() == [[1.0, 0.050048828125, 0.0]]


def test_bits_per_weight() -> None:
    assert Int4Group()(normal((8, 64)), None).bits_per_weight == 4 + 32 / 32
    assert Int4Group(group=64)(normal((8, 64)), None).bits_per_weight == 4 + 32 / 64
    assert Int8()(normal((8, 64)), None).bits_per_weight == 8 + 16 / 64


def test_smaller_groups_lose_less() -> None:
    weight = normal((64, 128))
    errors = [
        (Int4Group(group=g)(weight, None).dequantize() - weight).square().mean().item() for g in (16, 32, 64, 128)
    ]
    assert errors == sorted(errors) and errors[1] < 0.0065  # 0.0061 with unrounded minima and scales


def test_the_factor_of_gptq_by_hand() -> None:
    # X'X / 4 = [[1, 0.5], [0.5, 1]], whose inverse is [[4, -2], [-2, 4]] / 3 = U'U with U = [[2, -1], [0, sqrt(3)]] / sqrt(3)
    inputs = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) * 2**0.5
    root = 3**0.5
    torch.testing.assert_close(upper_factor(inputs, 0.0), torch.tensor([[2 / root, -1 / root], [0, 1]]).double())


def correlated(rows: int, columns: int) -> Tensor:
    """Inputs that lie near a few directions, as those of a real layer do."""
    return normal((rows, columns // 8), 1) @ normal((columns // 8, columns), 2) + 0.1 * normal((rows, columns), 3)


@pytest.mark.parametrize(("columns", "group"), [(96, 32), (300, 32), (300, 7), (260, 200)])
def test_gptq_loses_less_of_the_output_than_rounding(columns: int, group: int) -> None:
    weight, inputs = normal((24, columns)), correlated(400, columns)
    packed, rounded = Gptq(group=group)(weight, inputs), Int4Group(group=group)(weight, None)
    assert packed.bits_per_weight == rounded.bits_per_weight and packed.group == group

    def lost(p: Packed) -> float:
        return ((p.dequantize() - weight) @ inputs.T).square().sum().item()

    assert lost(packed) < 0.5 * lost(rounded)


def test_gptq_equals_the_plain_algorithm() -> None:
    """Column after column with the whole inverse, updated by elimination, as the paper's equations 2 and 3 have it."""
    weight, inputs, group = normal((6, 40)).double(), correlated(200, 40), 8
    hessian = inputs.double().T @ inputs.double() / len(inputs)
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(40))
    left, rounded = weight.clone(), torch.zeros_like(weight)
    for column in range(40):
        if column % group == 0:
            whole = Int4Group(group=group)(left[:, column : column + group], None)
            low, step = whole.minima.double().flatten(), whole.scales.double().flatten()
        rounded[:, column] = low + ((left[:, column] - low) / step).round().clamp(0, 15) * step
        share = (left[:, column] - rounded[:, column]) / inverse[column, column]
        left -= share[:, None] * inverse[column]
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
    packed = Gptq(group=group)(weight, inputs)
    torch.testing.assert_close(packed.dequantize().double(), rounded, rtol=1e-5, atol=1e-6)  # float32 comes out


def test_gptq_survives_inputs_that_are_never_seen_and_fewer_rows_than_columns() -> None:
    weight, inputs = normal((8, 64)), torch.zeros(3, 64)
    inputs[:, :10] = normal((3, 10))
    assert torch.isfinite(Gptq()(weight, inputs).dequantize()).all()
    with pytest.raises(ValueError, match="inputs have NaN"):
        Gptq()(weight, torch.full((3, 64), torch.nan))
