"""Attention within documents: both kernels against the masked softmax, and nothing passes from one document to another."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.attention import attention, cpu, operator, reference
from kernels.attention.documents import bounds_of, documents_of, whole_rows
from kernels.attention.tiles import Tile, tiles_of

# Sums of up to 200 terms in another order: a few ulp of fp32. bfloat16 keeps 8 bits of inputs, shares and results: 2^-8 each.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
Function = Callable[..., Tensor]
HEADS = [(2, 2), (4, 2), (3, 1)]
# (rows, bounds): one document a row; single tokens; strips and tiles of 64 full, short by one, over by one; equal lengths
SHAPES = [
    (1, [0, 1]),
    (2, [0, 67, 134]),
    (2, [0, 1, 2, 3, 50, 80, 159, 160]),
    (1, [0, 64, 127, 192, 257]),
    (3, [0, 30, 60, 90, 120, 150, 180]),
    (2, [0, 20, 50, 70, 100]),
]


def inputs(
    rows: int, length: int, heads: tuple[int, int], width: int = 8, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    """([q, k, v], grad)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, length, count, width) for count in (heads[0], heads[1], heads[1], heads[0])]
    *parts, grad = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return parts, grad


def packed(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None) -> Tensor:
    """Attention within the documents of these bounds."""
    return attention(q, k, v, None if bounds is None else documents_of(bounds, *q.shape[:2], q.device))  # type: ignore[call-arg]


def results(f: Function, parts: list[Tensor], grad: Tensor, bounds: Tensor | None) -> list[Tensor]:
    """[mixed, dq, dk, dv]."""
    leaves = [x.detach().clone().requires_grad_() for x in parts]
    mixed = f(*leaves, bounds)
    return [mixed.detach(), *torch.autograd.grad(mixed, leaves, grad)]


def assert_equals_the_reference(f: Function, parts: list[Tensor], grad: Tensor, bounds: Tensor) -> None:
    """Compare with the reference, given the same numbers in fp64, in the worst entry, relative to the largest."""
    expected = results(reference.attention, [x.double().cpu() for x in parts], grad.double().cpu(), bounds)
    for got, wanted in zip(results(f, parts, grad, bounds), expected, strict=True):
        assert got.dtype == parts[0].dtype and got.shape == wanted.shape
        scale = max(wanted.abs().max().item(), 1.0)
        assert (got.double().cpu() - wanted).abs().max().item() <= TOLERANCE[got.dtype] * scale


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("rows", "bounds"), SHAPES)
@pytest.mark.parametrize("strip", [16, 64, 256])
def test_cpu_equals_the_reference(
    strip: int,
    rows: int,
    bounds: list[int],
    heads: tuple[int, int],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "STRIPS", {torch.backends.cpu.get_cpu_capability(): strip})
    parts, grad = inputs(rows, bounds[-1] // rows, heads, dtype=dtype)
    assert_equals_the_reference(packed, parts, grad, torch.tensor(bounds))
    edges = torch.arange(rows + 1) * (bounds[-1] // rows)
    assert_equals_the_reference(lambda q, k, v, _: attention(q, k, v, None), parts, grad, edges)


@pytest.fixture
def triton_attention(device: torch.device, interpreted_dot: None, monkeypatch: pytest.MonkeyPatch) -> Function:
    """The operator on the GPU, else with the kernel under the interpreter."""
    from kernels.attention import triton

    monkeypatch.setattr(operator, "kernels", lambda q: triton)

    def within(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor) -> Tensor:
        flat = (x.to(device).flatten(0, 1).contiguous() for x in (q, k, v))
        mixed, _ = operator.within_documents(*flat, *documents_of(bounds, *q.shape[:2], device))  # type: ignore[call-arg]
        return mixed.view_as(q).to(q.device)

    return within


CASES = [
    (HEADS[0], 8, 1, [0, 1], torch.float32),
    (HEADS[1], 16, 2, [0, 1, 2, 3, 20, 35, 69, 70], torch.float32),
    (HEADS[2], 8, 1, [0, 31, 63, 96], torch.float32),
    (HEADS[0], 20, 2, [0, 37, 74], torch.float32),
    (HEADS[1], 16, 2, [0, 60, 75, 76, 150], torch.bfloat16),
    (HEADS[2], 24, 1, [0, 63, 64, 130], torch.bfloat16),
]


@pytest.mark.parametrize(("heads", "width", "rows", "bounds", "dtype"), CASES)
def test_triton_equals_the_reference(
    triton_attention: Function,
    heads: tuple[int, int],
    width: int,
    rows: int,
    bounds: list[int],
    dtype: torch.dtype,
) -> None:
    parts, grad = inputs(rows, bounds[-1] // rows, heads, width, dtype)
    assert_equals_the_reference(triton_attention, parts, grad, torch.tensor(bounds, dtype=torch.int32))


def set_tiles(monkeypatch: pytest.MonkeyPatch, *tiles: Tile) -> None:
    """Set the tiles of the forward, of dq, and of dk and dv."""
    from kernels.attention import triton

    monkeypatch.setattr(triton, "_tiles", lambda q: tiles)


# what any GPU and tensor is given, at the widths where the choice changes
KINDS = [(width, itemsize) for width in (64, 128, 256) for itemsize in (2, 4)]
CHOICES = sorted({tiles_of((major, 0), *kind) for major in (8, 9, 10) for kind in KINDS})


@pytest.mark.parametrize("tiles", CHOICES)
def test_every_choice_of_tiles(
    triton_attention: Function, monkeypatch: pytest.MonkeyPatch, tiles: tuple[Tile, ...]
) -> None:
    set_tiles(monkeypatch, *tiles)
    # one document of some whole tiles, not one of whose edges is a tile's, and short ones around it
    longest = 5 + 2 * max(tile.queries + tile.keys for tile in tiles)
    parts, grad = inputs(1, longest + 50, (1, 1))
    bounds = torch.tensor([0, 5, 37, longest + 37, longest + 50])
    assert_equals_the_reference(triton_attention, parts, grad, bounds)


# each tile with many cuts or few: 1, 3 or 6 beside the sequences' own
@pytest.mark.parametrize(("queries", "keys", "seed"), [(16, 16, 5), (32, 16, 0), (32, 16, 5), (16, 32, 2)])
def test_whole_tiles_are_whole(
    triton_attention: Function, monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, seed: int
) -> None:
    """Small tiles have many edges, and random documents put theirs on every side of them."""
    set_tiles(monkeypatch, *[Tile(queries, keys, 4, 1)] * 3)
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.randint(1, 140, (1 + seed,), generator=generator)
    bounds = torch.cat((torch.tensor([0, 63, 70, 140]), cuts)).unique()  # 63 is one short of whole tiles
    parts, grad = inputs(2, 70, (2, 1))
    assert_equals_the_reference(triton_attention, parts, grad, bounds)


def test_only_tiles_at_an_edge_are_masked(triton_attention: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    if torch.cuda.is_available():
        pytest.skip("counts what the interpreter calls")
    masks = []
    compare = InterpreterBuilder.create_and
    monkeypatch.setattr(InterpreterBuilder, "create_and", lambda *x: masks.append(x[1].data.shape) or compare(*x))  # type: ignore[func-returns-value]
    set_tiles(monkeypatch, *[Tile(16, 32, 4, 1)] * 3)

    def masked(tiles: int) -> int:
        """Scores' masks over forward and backward of one document."""
        masks.clear()
        results(triton_attention, *inputs(1, 32 * tiles, (1, 1), 64), torch.tensor([0, 32 * tiles]))
        return sum(shape in ((16, 32), (32, 16)) for shape in masks)

    # of 32 keys, the 2 tiles of queries on the diagonal in each kernel; all tiles would be 3 * T * (T + 1)
    assert [masked(tiles) for tiles in (1, 2, 4)] == [6, 12, 24]


def test_the_same_bits_every_time(triton_attention: Function) -> None:
    parts, grad = inputs(1, 80, (2, 1))
    bounds = torch.tensor([0, 20, 80])
    first, second = (results(triton_attention, parts, grad, bounds) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_two_tokens_worked_by_hand() -> None:
    # E = 4, so scores are halved: the second query scores 2 ln 3 / 2 = ln 3 and 0, and takes 3/4 of one value.
    q = torch.tensor([[5.0, 0, 0, 0], [1, 0, 0, 0]]).view(1, 2, 1, 4)
    k = torch.tensor([[2 * math.log(3), 0, 0, 0], [0, 7, 0, 0]]).view(1, 2, 1, 4)
    v = torch.tensor([[4.0, 0, 0, 8], [0, 4, 0, 0]]).view(1, 2, 1, 4)
    together, apart = ([[4.0, 0, 0, 8], [3, 1, 0, 6]], [[4.0, 0, 0, 8], [0, 4, 0, 0]])
    for f in (packed, reference.attention):
        for bounds, expected in ((None, together), ([0, 2], together), ([0, 1, 2], apart)):
            got = f(q, k, v, None if bounds is None else torch.tensor(bounds))
            torch.testing.assert_close(got[0, :, 0], torch.tensor(expected), rtol=1e-6, atol=1e-6)  # an ulp of ln 3


@pytest.mark.parametrize("f", [reference.attention, packed])
def test_gradients_equal_finite_differences(f: Function) -> None:
    parts, _ = inputs(2, 3, (2, 1), 2, torch.float64)
    bounds = torch.tensor([0, 1, 3, 6])
    assert torch.autograd.gradcheck(lambda *x: f(*x, bounds), [x.requires_grad_() for x in parts])


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that an operator makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


@pytest.mark.parametrize("heads", HEADS)
def test_a_gpu_holds_no_scores_in_fp32(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU, computed on a CPU, for which torch has as little a fused kernel of grouped heads in fp32."""
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda x: True))
    parts, grad = inputs(2, 64, heads)
    with Largest() as largest:
        results(attention, parts, grad, None)
    assert largest.entries < 2 * heads[0] * 64 * 64
    assert_equals_the_reference(lambda q, k, v, _: attention(q, k, v, None), parts, grad, torch.tensor([0, 64, 128]))


@pytest.mark.parametrize("heads", HEADS)
def test_a_gpu_reads_grouped_heads_as_they_are_in_bf16(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def fused(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, enable_gqa: bool) -> Tensor:
        given.append((k.shape[1], v.shape[1], is_causal, enable_gqa))
        return q

    monkeypatch.setattr(Tensor, "is_cuda", property(lambda x: True))
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
    (q, k, v), _ = inputs(1, 4, heads, dtype=torch.bfloat16)
    attention(q, k, v, None)
    assert given == [(heads[1], heads[1], True, heads[0] != heads[1])]


def changed(parts: list[Tensor], tokens: slice) -> list[Tensor]:
    """The parts with other numbers at these tokens of the first row."""
    copies = [x.clone() for x in parts]
    for x in copies:
        x[0, tokens] = x[0, tokens] * 3 + 1
    return copies


@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_a_document_reaches_no_other(kernel: str, request: pytest.FixtureRequest) -> None:
    f = packed if kernel == "cpu" else request.getfixturevalue("triton_attention")
    parts, grad = inputs(1, 90, (2, 1))
    bounds = torch.tensor([0, 40, 70, 90])
    before, after = (results(f, x, grad, bounds) for x in (parts, changed(parts, slice(40, 70))))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[0, :40], other[0, :40]) and torch.equal(one[0, 70:], other[0, 70:])
        assert not torch.equal(one[0, 40:70], other[0, 40:70])


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.integers(1, 3), length=st.integers(1, 150), cuts=st.sets(st.integers(1, 449)), heads=st.sampled_from(HEADS)
)
def test_packed_equals_each_document_alone(rows: int, length: int, cuts: set[int], heads: tuple[int, int]) -> None:
    tokens = rows * length
    bounds = sorted({cut for cut in cuts if cut < tokens} | set(range(0, tokens + 1, length)))
    parts, _ = inputs(rows, length, heads)
    together = packed(*parts, torch.tensor(bounds)).flatten(0, 1)  # type: ignore[call-arg]
    for start, end in pairwise(bounds):
        one_q, one_k, one_v = (x.flatten(0, 1)[None, start:end] for x in parts)
        alone = attention(one_q, one_k, one_v, None)[0]
        torch.testing.assert_close(
            together[start:end], alone, rtol=0, atol=1e-6
        )  # values of about 1, sums in another order


def test_gradients_of_any_layout_and_of_some_inputs() -> None:
    # the gradient of a sum is one number with strides of 0
    parts, grad = inputs(1, 90, (4, 2))
    bounds = torch.tensor([0, 70, 90])
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in parts)
    packed(q.requires_grad_(), k, v.requires_grad_(), bounds).sum().backward()
    expected = results(reference.attention, parts, torch.ones_like(grad), bounds)
    for got, wanted in ((q.grad, expected[1]), (v.grad, expected[3])):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)  # sums of up to 70 values of about 1


def test_short_documents_of_one_length_go_together() -> None:
    (two, these), (long, there), (one, last) = cpu.groups([0, 2, 102, 104, 106, 108, 109], 64)
    assert isinstance(these, Tensor)
    assert (two, these.tolist()) == (2, [0, 1, 102, 103, 104, 105, 106, 107])
    assert (long, there, one, last) == (100, slice(2, 102), 1, slice(108, 109))


BAD = [
    ([0, 4], "end with B \\* T = 8"),
    ([1, 4, 8], "begin with 0"),
    ([], "begin with 0"),
    ([0, 4, 4, 8], "must increase"),
    ([0, 3, 2, 4, 8], "must increase"),
    ([0, 3, 8], "crosses into the row at token 4"),
    ([[0, 4, 8]], "1-D"),
    ([0.0, 4.0, 8.0], "int32 or int64"),
]


@pytest.mark.parametrize(("bounds", "message"), BAD)
def test_bad_bounds(bounds: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        documents_of(torch.tensor(bounds) if bounds else torch.tensor([], dtype=torch.int64), 2, 4, torch.device("cpu"))


def test_documents_of_other_tokens_are_refused() -> None:
    parts, _ = inputs(2, 4, (2, 1))
    with pytest.raises(ValueError, match="documents are of 6 tokens, and q, k and v of 2 rows of 4"):
        attention(*parts, documents_of(torch.tensor([0, 3, 6]), 2, 3, torch.device("cpu")))  # type: ignore[arg-type, call-arg]


def test_each_token_knows_its_document() -> None:
    starts, ends = documents_of(torch.tensor([0, 1, 4, 6, 8]), 2, 4, torch.device("cpu"))
    assert starts.dtype == ends.dtype == torch.int32
    assert starts.tolist() == [0, 1, 1, 1, 4, 4, 6, 6] and ends.tolist() == [1, 4, 4, 4, 6, 6, 8, 8]
    assert bounds_of(starts) == [0, 1, 4, 6, 8]
    for one, other in zip(
        whole_rows(2, 3, torch.device("cpu")),
        documents_of(torch.tensor([0, 3, 6]), 2, 3, torch.device("cpu")),
        strict=True,
    ):
        assert torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_operator_is_what_its_registration_says(dtype: torch.dtype) -> None:
    """Schema, shapes of fake tensors, autograd and what AOT makes of it."""
    parts, _ = inputs(2, 45, (2, 2), dtype=dtype)
    flat = [x.flatten(0, 1).requires_grad_() for x in parts]
    documents = documents_of(torch.tensor([0, 3, 45, 90]), 2, 45, torch.device("cpu"))
    torch.library.opcheck(operator.within_documents, (*flat, *documents))
    mixed, logsumexp = operator.within_documents(*flat, *documents)
    saved = mixed.detach(), *(x.detach() for x in flat), *documents, mixed.detach(), logsumexp.detach()
    torch.library.opcheck(torch.ops.tokenmill.attention_backward.default, saved)


@pytest.mark.parametrize("shape", [(2, 4, 3, 8), (2, 5, 2, 8), (2, 4, 2, 6), (1, 4, 2, 8)])
def test_heads_and_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    (q, k, v), _ = inputs(2, 4, (4, 2))
    with pytest.raises(ValueError, match="H a multiple of K"):
        attention(q, torch.zeros(shape), v, None)
    with pytest.raises(ValueError, match="H a multiple of K"):
        attention(q, torch.zeros(2, 4, 3, 8), torch.zeros(2, 4, 3, 8), None)


def test_the_kernels_of_an_h100_spill_nothing() -> None:
    """Compiled for one, which need not be there, at the width of gpu-124m's heads."""
    pytest.importorskip("triton")
    code = """
import torch
from kernels.attention.sizes import KERNELS, size
from kernels.attention.tiles import tiles_of
for kernel, tile in zip(KERNELS, tiles_of((9, 0), 64, 2)):
    print(*size(kernel, (9, 0), 64, torch.bfloat16, tile).values())
"""
    compiled = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run([sys.executable, "-c", code], env=compiled, check=True, capture_output=True, text=True).stdout
    sizes = [[int(number) for number in line.split()] for line in told.splitlines()]
    assert len(sizes) == 3
    for registers, spilled, shared in sizes:
        assert registers <= 255 and not spilled and shared <= 227 * 1024
