"""Quantization methods: what every one of them must do, and small cases worked by hand."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.calibration import LayerInputs, upper_factor
from lm.config import Config, methods_of
from lm.quantized.base import PackedMatrix
from lm.quantized.counts import Counts, unpacked
from lm.quantized.trits import trits_of
from tasks.quantize import methods
from tasks.quantize.methods import Awq, Gptq, Int8, LearnedRounding, Rtn, TritPlanes

METHODS = methods_of(methods)
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
# those that count steps, of which an entry is the nearest
COUNTING = pytest.mark.parametrize(
    "method", [m for m in METHODS if m is not TritPlanes], ids=lambda method: method.__name__
)
GRIDS = [m for m in METHODS if "bits" in m.model_fields]
SHAPES = [(64, 64), (5, 123), (1, 1), (1, 33), (40, 2)]


def steps_of(packed: Counts) -> Tensor:
    """The step of each entry, (O, I)."""
    columns = packed.shape[1]
    return packed.scales.float().repeat_interleave(packed.group or columns, dim=1)[:, :columns]


def normal(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_within_half_a_step(weight: Tensor, packed: Counts) -> None:
    # Codes count the stored steps, so only the float32 rounding of the result (2^-24 of it) comes on top.
    error = (packed.dequantize().double() - weight.double()).abs()
    assert (error <= 0.5 * steps_of(packed) + weight.abs() * 2**-22).all()


@COUNTING
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


@COUNTING
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_no_longer_than_the_spread_needs(method: type[Config], shape: tuple[int, int]) -> None:
    # Half a step alone would allow any step. 1% for its rounding to bfloat16 and for that of the minimum.
    weight = normal(shape)
    packed = method()(weight, None)
    spread = 2 * weight.abs().max() / (2**packed.bits - 2)
    assert steps_of(packed).max() <= 1.01 * spread


@COUNTING
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_what_is_quantized_already_does_not_change(method: type[Config], shape: tuple[int, int]) -> None:
    # Not of rows of 2: a pair far closer to each other than to 0 has a minimum that bfloat16 rounds by several steps. Not of 8 bits
    # in groups: a minimum's rounding, up to 2^-8 of itself, is more than one of 255 steps.
    quantizer = method(**({"bits": 4} if method in GRIDS else {}))
    once = quantizer(normal(shape), None)
    twice = quantizer(once.dequantize(), None)
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


def digest(packed: PackedMatrix) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(packed.tensors("w").items()):
        whole.update(name.encode() + tensor.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


# Of weight(i, j) = ((37 i + 11 j) mod 97 - 48) / 64, exact in every float; a new digest makes old files look different.
GOLDEN = {
    "awq": "9163b52a571279e2",
    "int8": "0d290700bc1e26f3",
    "learned_rounding": "9163b52a571279e2",
    "rtn": "9163b52a571279e2",
    "gptq": "9163b52a571279e2",
    "smooth": "38a175140e0c8782",
    "trit_planes": "9107fc8124fc0ac6",
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
    packed = Rtn(group=2)(torch.tensor([[-1.0, 14.0, 3.0, 3.75, 5.0]]), None)
    assert packed.codes.tolist() == [[0 + 15 * 16, 0 + 15 * 16, 0]]
    assert packed.minima.tolist() == [[-1.0, 3.0, 5.0]]
    # 0.05 as bfloat16 is 0.050048828125
    assert packed.scales.tolist() == [[1.0, 0.050048828125, 0.0]]


def test_symmetric_by_hand() -> None:
    # from -8 to 7 steps: of 1, since -8 is the larger of the ends, and of 2
    packed = Rtn(group=4, symmetric=True)(torch.tensor([[6.5, -8.0, 0.4, 0.0, 14.0, -14.0, 3.1]]), None)
    assert unpacked(packed.codes, 4, 7).tolist() == [[14, 0, 8, 8, 15, 1, 10]] and packed.scales.tolist() == [
        [1.0, 2.0]
    ]
    assert packed.dequantize().tolist() == [[6.0, -8.0, 0.0, 0.0, 14.0, -14.0, 4.0]]


def test_bits_per_weight() -> None:
    assert Rtn()(normal((8, 64)), None).bits_per_weight == 4 + 32 / 32
    assert Rtn(group=64)(normal((8, 64)), None).bits_per_weight == 4 + 32 / 64
    assert Int8()(normal((8, 64)), None).bits_per_weight == 8 + 16 / 64


def test_smaller_groups_lose_less() -> None:
    weight = normal((64, 128))
    errors = [(Rtn(group=g)(weight, None).dequantize() - weight).square().mean().item() for g in (16, 32, 64, 128)]
    assert errors == sorted(errors) and errors[1] < 0.0065  # 0.0061 with unrounded minima and scales


def test_the_factor_of_gptq_by_hand() -> None:
    # X'X / 4 = [[1, 0.5], [0.5, 1]], whose inverse is [[4, -2], [-2, 4]] / 3 = U'U with U = [[2, -1], [0, sqrt(3)]] / sqrt(3)
    inputs = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) * 2**0.5
    root = 3**0.5
    moments = LayerInputs(inputs).moments_II
    torch.testing.assert_close(upper_factor(moments, 0.0), torch.tensor([[2 / root, -1 / root], [0, 1]]).double())


def test_each_order_has_a_factor_of_its_own_whichever_was_asked_first() -> None:
    inputs = LayerInputs(uneven(50, 12))
    plain, ordered = inputs.factor(0.01), inputs.factor(0.01, ordered=True)
    permuted = inputs.moments_II[inputs.order_I][:, inputs.order_I]
    assert torch.equal(ordered, upper_factor(permuted, 0.01)) and torch.equal(plain, inputs.factor(0.01))
    assert not torch.equal(plain, ordered) and not torch.equal(plain, inputs.factor(0.1))


def correlated(rows: int, columns: int) -> Tensor:
    """Inputs that lie near a few directions, as those of a real layer do."""
    return normal((rows, columns // 8), 1) @ normal((columns // 8, columns), 2) + 0.1 * normal((rows, columns), 3)


@pytest.mark.parametrize(("columns", "group"), [(96, 32), (300, 32), (300, 7), (260, 200)])
def test_gptq_loses_less_of_the_output_than_rounding(columns: int, group: int) -> None:
    weight, inputs = normal((24, columns)), correlated(400, columns)
    packed, rounded = Gptq(group=group)(weight, LayerInputs(inputs)), Rtn(group=group)(weight, None)
    assert packed.bits_per_weight == rounded.bits_per_weight and packed.group == group

    def lost(p: PackedMatrix) -> float:
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
            whole = Rtn(group=group)(left[:, column : column + group], None)
            low, step = whole.minima.double().flatten(), whole.scales.double().flatten()
        rounded[:, column] = low + ((left[:, column] - low) / step).round().clamp(0, 15) * step
        share = (left[:, column] - rounded[:, column]) / inverse[column, column]
        left -= share[:, None] * inverse[column]
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
    packed = Gptq(group=group)(weight, LayerInputs(inputs))
    torch.testing.assert_close(packed.dequantize().double(), rounded, rtol=1e-5, atol=1e-6)  # float32 comes out


def test_gptq_survives_inputs_that_are_never_seen_and_fewer_rows_than_columns() -> None:
    weight, inputs = normal((8, 64)), torch.zeros(3, 64)
    inputs[:, :10] = normal((3, 10))
    assert torch.isfinite(Gptq()(weight, LayerInputs(inputs)).dequantize()).all()
    with pytest.raises(ValueError, match="inputs have NaN"):
        Gptq()(weight, LayerInputs(torch.full((3, 64), torch.nan)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("method", GRIDS, ids=lambda method: method.__name__)
def test_whatever_the_bits_no_entry_moves_by_more_than_half_a_step_and_all_codes_are_used(
    method: type[Config], bits: int, symmetric: bool
) -> None:
    weight = normal((6, 131))
    packed = method(bits=bits, group=33, symmetric=symmetric)(weight, None)
    assert (packed.minima is None) == symmetric
    assert_within_half_a_step(weight, packed)
    codes = set(unpacked(packed.codes, bits, 131).flatten().tolist())
    # 256 codes are more than chance meets, and not every group of a symmetric grid reaches its ends
    assert codes == set(range(2**bits)) if bits < 8 else {symmetric, 255} <= codes
    least = method(bits=bits, group=33)(weight, None).bits_per_weight
    assert packed.bits_per_weight == pytest.approx(least - (16 * 4 / 131 if symmetric else 0))
    assert packed.codes.shape == (6, -(-131 * bits // 8))


@pytest.mark.parametrize("method", [Gptq, Awq, LearnedRounding], ids=lambda method: method.__name__)
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (3, False), (4, False), (4, True)])
def test_what_calibrates_loses_less_of_the_output_than_rounding(
    method: type[Config], bits: int, symmetric: bool
) -> None:
    weight, inputs = normal((24, 96)), LayerInputs(uneven(400, 96))
    made = (m(bits=bits, symmetric=symmetric)(weight, inputs) for m in (method, Rtn))
    lost, nearest = (lost_of(packed, weight, inputs) for packed in made)
    assert lost < ((0.95 if symmetric else 0.7) if method is Awq else 0.5) * nearest


def uneven(rows: int, columns: int) -> Tensor:
    """Inputs of which a few are far larger than the others, as those of a real layer are."""
    return correlated(rows, columns) * torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=seeded(4))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lost_of(packed: PackedMatrix, weight: Tensor, inputs: LayerInputs) -> float:
    return ((packed.dequantize() - weight) @ inputs.rows_NI.T).square().sum().item()


def test_the_order_of_activations_loses_less_and_equals_gptq_of_permuted_columns() -> None:
    weight, inputs, group = normal((24, 96)), LayerInputs(uneven(400, 96)), 96
    ordered = Gptq(group=group, bits=2, order="activations")(weight, inputs)
    plain = Gptq(group=group, bits=2)(weight, inputs)
    assert lost_of(ordered, weight, inputs) < lost_of(plain, weight, inputs)
    # one group: its range does not hang on the order, so that the columns put in order beforehand give the same
    order = inputs.rows_NI.double().square().sum(0).sort(descending=True, stable=True).indices
    permuted = Gptq(group=group, bits=2)(weight[:, order], LayerInputs(inputs.rows_NI[:, order]))
    torch.testing.assert_close(ordered.dequantize()[:, order], permuted.dequantize(), rtol=0, atol=0)


def test_static_groups_keep_the_range_of_the_weights_as_they_were() -> None:
    weight, inputs = normal((5, 40)), LayerInputs(uneven(100, 40))
    ordered, rounded = Gptq(group=8, order="activations")(weight, inputs), Rtn(group=8)(weight, None)
    assert torch.equal(ordered.minima, rounded.minima) and torch.equal(ordered.scales, rounded.scales)
    assert not torch.equal(ordered.codes, rounded.codes)


def test_awq_by_hand() -> None:
    """Two bits, one group: steps of the range over 3. The second input is 16 times the first. Rounded as they are, 0.5 becomes
    1 or 0; times their factors, 1/4 and 4 of the power 1, the second column makes the range and is kept."""
    weight = torch.tensor([[0.0, 3.0, 0.55]])
    inputs = LayerInputs(torch.tensor([[1.0, 1.0, 16.0], [-1.0, 1.0, -16.0]]))
    plain = Rtn(bits=2)(weight, None).dequantize()
    assert plain.tolist() == [[0.0, 3.0, 1.0]]
    packed = Awq(bits=2, tried=1)(weight, inputs)
    # magnitudes 1, 1, 16: factors 1/4, 1/4, 4; columns 0, 0.75, 2.2 of the range 2.2: steps of 0.733, codes 0, 1, 3
    assert packed.columns is not None and packed.columns.tolist() == [0.25, 0.25, 4.0]
    assert unpacked(packed.codes, 2, 3).tolist() == [[0, 1, 3]]
    torch.testing.assert_close(packed.dequantize(), torch.tensor([[0.0, 2.9333, 0.55]]), rtol=2**-8, atol=0)


def test_awq_without_a_factor_that_helps_is_rounding() -> None:
    weight, inputs = normal((8, 64)), LayerInputs(torch.eye(64))
    packed = Awq()(weight, inputs)
    assert packed.columns is None and torch.equal(packed.codes, Rtn()(weight, None).codes)


def test_learned_rounding_lies_between_the_best_of_all_roundings_and_the_nearest() -> None:
    """Of six columns, by trying all 64 ways to go up or down."""
    weight, inputs = normal((5, 6), 7), LayerInputs(correlated(200, 48)[:, :6] @ normal((6, 6), 8))
    nearest, found = Rtn(bits=2)(weight, None), LearnedRounding(bits=2, steps=2000)(weight, inputs)
    assert torch.equal(found.scales, nearest.scales) and torch.equal(found.minima, nearest.minima)
    low, step = nearest.minima.double(), nearest.scales.double()
    below = ((weight.double() - low) / step).floor()
    best = torch.full((5,), torch.inf, dtype=torch.float64)
    for ups in range(64):
        up = torch.tensor([ups >> place & 1 for place in range(6)])
        lost = (low + (below + up).clamp(0, 3) * step - weight) @ inputs.rows_NI.double().T
        best = torch.minimum(best, lost.square().sum(1))
    lost = ((found.dequantize() - weight).double() @ inputs.rows_NI.double().T).square().sum(1)
    rounded = ((nearest.dequantize() - weight).double() @ inputs.rows_NI.double().T).square().sum(1)
    # gradient descent need not find the best of each row
    assert (best <= lost * (1 + 1e-9)).all() and (lost <= rounded).all() and lost.sum() < 0.9 * rounded.sum()


def test_learned_rounding_is_never_worse_than_the_nearest_in_any_row() -> None:
    weight, inputs = normal((24, 96)), LayerInputs(uneven(400, 96))
    short = LearnedRounding(steps=3, bits=3)(weight, inputs)  # undecided still
    lost, nearest = (
        ((p.dequantize() - weight).double() @ inputs.rows_NI.double().T).square().sum(1)
        for p in (short, Rtn(bits=3)(weight, None))
    )
    assert (lost <= nearest * (1 + 1e-9)).all()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 1000), magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_trits_are_the_nearest_that_their_scales_can_say(shape: tuple[int, int], seed: int, magnitude: float) -> None:
    weight = normal(shape, seed) * magnitude
    packed = TritPlanes(group=16)(weight, None)
    assert packed.shape == shape
    a, b = (s.float().repeat_interleave(16, dim=1)[:, : shape[1], None] for s in packed.scales)
    sums = torch.cat([x * a + y * b for x in (-1, 0, 1) for y in (-1, 0, 1)], dim=2)
    error = (packed.dequantize() - weight).abs()
    best = (sums - weight[:, :, None]).abs().amin(2)
    torch.testing.assert_close(error, best, rtol=1e-5, atol=1e-6 * magnitude)


def test_trit_planes_by_hand() -> None:
    # both planes for 2 and -2, one for 1 and -1: with the scales 1 and 1 nothing is lost
    weight = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 2.0]])
    packed = TritPlanes()(weight, None)
    assert packed.scales.flatten().tolist() == [1.0, 1.0]
    assert packed.dequantize().tolist() == weight.tolist()
    # digits 0, 1 and 2 for the trits -1, 0 and 1, the first the lowest
    digits = trits_of(packed.codes, 6).long() + 1
    assert packed.codes[0, 0].tolist() == [
        sum(int(d) * 3**i for i, d in enumerate(digits[0, 0, :5])),
        int(digits[0, 0, 5]),
    ]
    # 2 planes x 2 bytes and 2 scales
    assert packed.num_bytes == 4 + 4


def test_two_planes_lose_less_than_two_bits_and_more_than_four() -> None:
    weight = normal((64, 256))
    planes = (TritPlanes()(weight, None).dequantize() - weight).square().mean()
    two, three, four = ((Rtn(bits=b, group=128)(weight, None).dequantize() - weight).square().mean() for b in (2, 3, 4))
    assert four < planes < three < two


def test_scales_of_trits_are_least_squares() -> None:
    from tasks.quantize.methods.trit_planes import scales_of

    weight = normal((7, 40)).double()
    trits = torch.randint(-1, 2, (2, 7, 40), generator=seeded(5)).double()
    found = scales_of(trits, weight)
    for row in range(7):
        expected = torch.linalg.lstsq(trits[:, row].T, weight[row, :, None]).solution.flatten()
        torch.testing.assert_close(found[:, row], expected, rtol=1e-6, atol=1e-8)


@EVERY
def test_entropy_is_at_most_what_is_stored_and_by_hand(method: type[Config]) -> None:
    packed = method()(normal((16, 160)), None)
    assert 0 < packed.entropy_bytes <= packed.num_bytes
    # one code alone takes nothing: scales and minima are left
    constant = method()(torch.zeros(4, 160), None)
    assert constant.entropy_bytes == constant.num_bytes - constant.parts()["codes"].nbytes
