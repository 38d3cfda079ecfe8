"""Decoding's attention: the kernel against the masked softmax, what it reads, and that a row depends on that row alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.decode_attention import decode_attention, reference

# Sums of up to 200 terms in another order: a few ulp of fp32. bfloat16 keeps 8 bits of inputs, shares and results: 2^-8 each.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
# (H, K, E): a head of its own each, groups, one head for all, widths that are no power of two
HEADS = [(2, 2, 16), (4, 2, 8), (3, 1, 20), (20, 1, 16)]
# none kept, one, tiles of 32 and 64 full, short by one and over by one, several
LENGTHS = [0, 1, 31, 32, 33, 63, 64, 65, 130, 199]
SLOTS = 200


def inputs(
    heads: tuple[int, int, int], lengths: list[int], dtype: torch.dtype, slots: int = SLOTS
) -> tuple[Tensor, ...]:
    """q, k, v, keys, values and lengths; slots that are not filled hold no numbers."""
    generator = torch.Generator().manual_seed(0)
    (H, K, E), B = heads, len(lengths)
    shapes = ((B, H, E), (B, K, E), (B, K, E), (B, K, SLOTS, E), (B, K, SLOTS, E))
    q, k, v, keys, values = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    unfilled = torch.arange(SLOTS) >= torch.tensor(lengths)[:, None]
    for kept in (keys, values):
        kept.masked_fill_(unfilled[:, None, :, None], torch.nan)
    return q, k, v, keys[:, :, :slots].contiguous(), values[:, :, :slots].contiguous(), torch.tensor(lengths)


def softmax_of_each_row(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Decoding's attention in fp64, a row and a head at a time."""
    B, H, E = q.shape
    mixed = torch.zeros(B, H, E, dtype=torch.float64)
    for row in range(B):
        for head in range(H):
            of = head * k.shape[1] // H
            n = int(lengths[row])
            every_k = torch.cat((keys[row, of, :n], k[row, of, None])).double()
            every_v = torch.cat((values[row, of, :n], v[row, of, None])).double()
            mixed[row, head] = (every_k @ q[row, head].double() / E**0.5).softmax(0) @ every_v
    return mixed


@pytest.fixture
def triton_kernel(device: torch.device, interpreted_dot: None) -> Callable[..., Tensor]:
    """The kernel on the GPU, else under the interpreter."""
    from kernels.decode_attention import triton

    def on_device(*given: Tensor) -> Tensor:
        there = [x.to(device) for x in given]
        mixed = triton.decode_attention(*there)
        for x, y in zip(given, there, strict=True):
            x.copy_(y)
        return mixed.cpu()

    return on_device


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", HEADS)
def test_kernel_and_reference_equal_a_softmax_a_row(
    triton_kernel: Callable[..., Tensor], heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    wanted = softmax_of_each_row(*inputs(heads, LENGTHS, dtype))
    for f in (triton_kernel, decode_attention):
        given = inputs(heads, LENGTHS, dtype)
        q, k, v, keys, values, lengths = given
        before = keys.clone(), values.clone()
        got = f(*given)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=TOLERANCE[dtype] * wanted.abs().max().item())
        # the new token is where it belongs, and nothing else has changed
        assert lengths.tolist() == LENGTHS
        for kept, old, new in ((keys, before[0], k), (values, before[1], v)):
            old[torch.arange(len(LENGTHS)), :, lengths] = new
            assert torch.equal(kept.nan_to_num(7.5), old.nan_to_num(7.5))


def test_no_more_is_read_than_the_filled_slots(
    triton_kernel: Callable[..., Tensor], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by the loads' masks, under the interpreter: keys and values of filled slots once, q, k and v once, the length."""
    if device.type == "cuda":
        pytest.skip("what a kernel loads is seen by the interpreter alone")
    from triton.runtime.interpreter import InterpreterBuilder

    loaded, load = [0], InterpreterBuilder.create_masked_load

    def counted(self: object, ptrs: object, mask: object, *rest: object) -> object:
        loaded[0] += int(mask.data.sum())  # type: ignore[attr-defined]
        return load(self, ptrs, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counted)
    (H, K, E), lengths = (4, 2, 8), [0, 5, 64, 130]
    triton_kernel(*inputs((H, K, E), lengths, torch.float32))
    assert loaded[0] == 2 * sum(lengths) * K * E + len(lengths) * ((H + 2 * K) * E + K)


@settings(deadline=None, max_examples=4)
@given(
    row=st.integers(0, 3), others=st.lists(st.integers(0, 90), min_size=4, max_size=4), slots=st.integers(101, SLOTS)
)
def test_a_row_depends_on_itself_alone(row: int, others: list[int], slots: int) -> None:
    """Equal to the bit, whatever stands beside it and however many slots there are."""
    triton = pytest.importorskip("kernels.decode_attention.triton", exc_type=ImportError)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def mixed(lengths: list[int], slots: int) -> Tensor:
        return triton.decode_attention(*(x.to(place) for x in inputs((4, 2, 8), lengths, torch.float32, slots)))[row]

    beside = [100 if place == row else other for place, other in enumerate(others)]
    assert torch.equal(mixed(beside, slots), mixed([100] * 4, SLOTS))


def test_any_layout_of_what_is_new(triton_kernel: Callable[..., Tensor]) -> None:
    given = inputs((4, 2, 8), [3, 70], torch.float32)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given[:3]]
    assert torch.equal(triton_kernel(*turned, *given[3:]), triton_kernel(*inputs((4, 2, 8), [3, 70], torch.float32)))


def test_two_tokens_worked_by_hand(triton_kernel: Callable[..., Tensor]) -> None:
    # E = 4, so scores are halved: the kept key scores 2 ln 3 / 2 = ln 3 and the new one 0; it takes 3/4 of the kept value.
    q, k = torch.tensor([[[1.0, 0, 0, 0]]]), torch.tensor([[[0.0, 7, 0, 0]]])
    v = torch.tensor([[[0.0, 4, 0, 0]]])
    keys, values = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    keys[0, 0, 0, 0], values[0, 0, 0] = 2 * np.log(3), torch.tensor([4.0, 0, 0, 8])
    for f in (triton_kernel, decode_attention, reference.decode_attention):
        mixed = f(q, k, v, keys.clone(), values.clone(), torch.tensor([1]))
        torch.testing.assert_close(mixed, torch.tensor([[[3.0, 1, 0, 6]]]), rtol=1e-6, atol=1e-6)


def test_bad_shapes_say_what_to_give() -> None:
    q, k, v, keys, values, lengths = inputs((4, 2, 8), [3, 70], torch.float32)
    bad = [
        (q[:, :3], k, v, keys, values, lengths),
        (q, k, v[:, :1], keys, values, lengths),
        (q, k, v, keys, values[:, :, :9], lengths),
        (q, k, v, keys[:1], values[:1], lengths),
        (q, k, v, keys, values, lengths[:1]),
    ]
    for given_ in bad:
        with pytest.raises(ValueError, match="H a multiple of K"):
            decode_attention(*given_)
    with pytest.raises(ValueError, match="must be contiguous"):
        decode_attention(q, k, v, keys[:, :, :100], values[:, :, :100], lengths)
