"""Packed matrices: what lies in the file is what comes back, and what does not fit is refused by name."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from lm.quantized.base import PackedMatrix, check_matrix
from lm.quantized.counts import pack
from lm.quantized.state import pack_state, unpack_state
from lm.quantized.trits import pack_trits


def packed(rows: int = 3, columns: int = 7, bits: int = 4, group: int = 4, minima: bool = True) -> PackedMatrix:
    generator = torch.Generator().manual_seed(0)
    groups = -(-columns // (group or columns))
    codes = torch.randint(0, 2**bits, (rows, columns), generator=generator)
    scales, lows = (torch.rand(rows, groups, generator=generator).to(torch.bfloat16) for _ in range(2))
    return pack(codes, scales, lows if minima else None, bits, group)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 70),
    bits=st.integers(1, 8),
    group=st.sampled_from([0, 1, 5, 32]),
    minima=st.booleans(),
)
def test_through_a_file_and_json_to_the_bit(rows: int, columns: int, bits: int, group: int, minima: bool) -> None:
    weight, norm = packed(rows, columns, bits, group, minima), torch.arange(4.0)
    tensors, description = pack_state({"a.weight": weight}, {"norm": norm})
    state = unpack_state(load(save(tensors)), json.loads(json.dumps(description)))
    assert set(state) == {"a.weight", "norm"}
    assert torch.equal(state["a.weight"], weight.dequantize()) and torch.equal(state["norm"], norm)
    assert state["a.weight"].shape == (rows, columns) and state["a.weight"].dtype == torch.float32


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 23), group=st.sampled_from([1, 5, 32]), planes=st.integers(1, 3)
)  # fmt: skip
def test_trits_through_a_file_and_json_to_the_bit(rows: int, columns: int, group: int, planes: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    trits = torch.randint(-1, 2, (planes, rows, columns), generator=generator)
    scales = torch.rand(planes, rows, -(-columns // group), generator=generator).to(torch.bfloat16)
    weight = pack_trits(trits, scales, group)
    tensors, description = pack_state({"a.weight": weight}, {})
    found = unpack_state(load(save(tensors)), json.loads(json.dumps(description)))["a.weight"]
    each = scales.float().repeat_interleave(group, dim=2)[:, :, :columns]
    torch.testing.assert_close(found, (trits * each).sum(0), rtol=1e-6, atol=1e-7)  # sums in another order
    assert torch.equal(found, weight.dequantize())


def test_columns_that_were_multiplied_are_divided_again() -> None:
    columns = torch.tensor([2.0, 0.5], dtype=torch.bfloat16)
    weight = pack(torch.tensor([[3, 1]]), torch.tensor([[1.0]]), None, bits=2, group=0, columns_I=columns)
    tensors, description = pack_state({"a.weight": weight}, {})
    assert unpack_state(tensors, description)["a.weight"].tolist() == [[0.5, -2.0]]
    with pytest.raises(ValueError, match="a.weight: .*shape"):
        unpack_state(tensors | {"a.weight.columns": columns[:1]}, description)


def test_three_bits_by_hand() -> None:
    # 1 + 8 x 7 + 64 x 2 = 185 of the first byte's bits 1 0 0, 1 1 1, 0 1 and the third code's high bit, 0, in the second: 5 x 2
    weight = pack(torch.tensor([[1, 7, 2, 5]]), torch.tensor([[1.0]]), None, bits=3, group=0)
    assert weight.codes.tolist() == [[185, 10]]
    assert weight.dequantize().tolist() == [[-3.0, 3.0, -2.0, 1.0]]


def test_four_bits_by_hand() -> None:
    # Codes 1, 15, 2 of row 0 fill bytes 1 + 15 * 16 = 241 and 2. Groups of 2 with steps 0.5 and 2, minima -1 and 8:
    # -1 + 1 * 0.5, -1 + 15 * 0.5, 8 + 2 * 2.
    weight = pack(torch.tensor([[1, 15, 2]]), torch.tensor([[0.5, 2.0]]), torch.tensor([[-1.0, 8.0]]), bits=4, group=2)
    assert weight.codes.tolist() == [[241, 2]]
    assert weight.dequantize().tolist() == [[-0.5, 6.5, 12.0]]
    # 2 bytes of codes and 4 float32 numbers for 3 weights
    assert weight.num_bytes == 18 and weight.bits_per_weight == 48


def test_without_minima_the_middle_code_is_zero() -> None:
    eight = pack(torch.tensor([[0, 128, 255]]), torch.tensor([[2.0]]), None, bits=8, group=0)
    four = pack(torch.tensor([[0, 8, 15]]), torch.tensor([[2.0]]), None, bits=4, group=0)
    assert eight.dequantize().tolist() == [[-256.0, 0.0, 254.0]]
    assert four.dequantize().tolist() == [[-16.0, 0.0, 14.0]]


def test_rest_comes_back_in_float32() -> None:
    assert unpack_state({"norm": torch.ones(3, dtype=torch.float16)}, {})["norm"].dtype == torch.float32


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_a_missing_part_is_named(part: str) -> None:
    tensors, description = pack_state({"a.weight": packed()}, {})
    del tensors[f"a.weight.{part}"]
    with pytest.raises(ValueError, match=f"a.weight: .*a.weight.{part}"):
        unpack_state(tensors, description)


@pytest.mark.parametrize("change", [{"shape": [3, 9]}, {"shape": [2, 7]}, {"bits": 8}, {"group": 2}])
def test_a_description_of_another_weight_is_refused(change: dict[str, object]) -> None:
    tensors, description = pack_state({"a.weight": packed()}, {})
    description["weights"]["a.weight"] |= change
    with pytest.raises(ValueError, match="a.weight: .*shape"):
        unpack_state(tensors, description)


def test_an_incomplete_description_is_refused() -> None:
    tensors, description = pack_state({"a.weight": packed()}, {})
    del description["weights"]["a.weight"]["bits"]
    with pytest.raises(ValueError, match="a.weight: .*bits"):
        unpack_state(tensors, description)


def test_two_weights_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a.weight.codes"):
        pack_state({"a.weight": packed()}, {"a.weight.codes": torch.ones(1)})


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.tensor([[1.0, torch.nan]]), "NaN"),
        (torch.tensor([[torch.inf]]), "infinite"),
        (torch.ones(3), "shape"),
        (torch.ones(0, 3), "shape"),
        (torch.tensor([[3e38]]), "1e38"),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight: torch.Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_matrix(weight)
