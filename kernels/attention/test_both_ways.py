"""Attention that looks both ways: beside the masked softmax with its gradients, and blind across documents."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kernels.attention import attention, reference
from kernels.attention.both_ways import attention_both_ways, document_mask
from kernels.attention.documents import documents_of
from kernels.attention.test_attention import HEADS, SHAPES, TOLERANCE, inputs, results


def both_ways(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None) -> Tensor:
    rows, length = q.shape[:2]
    hidden = None
    if bounds is not None:
        hidden = document_mask(documents_of(bounds, rows, length, q.device), rows, length, q.dtype)
    return attention_both_ways(q, k, v, hidden)


def wanted(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None) -> Tensor:
    return reference.attention(q, k, v, bounds, causal=False)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("rows", "bounds"), SHAPES)
def test_equals_the_masked_softmax_and_its_gradients(
    rows: int, bounds: list[int], heads: tuple[int, int], dtype: torch.dtype
) -> None:
    parts, grad = inputs(rows, bounds[-1] // rows, heads, dtype=dtype)
    for given in (torch.tensor(bounds), None):
        expected = results(wanted, [x.double() for x in parts], grad.double(), given)
        for got, exact in zip(results(both_ways, parts, grad, given), expected, strict=True):
            assert got.dtype == dtype and got.shape == exact.shape
            assert (got.double() - exact).abs().max() <= 2 * TOLERANCE[dtype] * max(float(exact.abs().max()), 1.0)


@pytest.mark.parametrize("bounds", [[0, 1, 2, 3, 50, 80, 159, 160], [0, 80, 160]])
def test_a_document_is_what_it_is_alone_and_its_first_token_sees_its_last(bounds: list[int]) -> None:
    (q, k, v), _ = inputs(2, 80, (4, 2))
    packed = both_ways(q, k, v, torch.tensor(bounds)).flatten(0, 1)
    for start, end in pairwise(bounds):
        own_q, own_k, own_v = (x.flatten(0, 1)[None, start:end] for x in (q, k, v))
        alone = both_ways(own_q, own_k, own_v, None)[0]
        torch.testing.assert_close(packed[start:end], alone, rtol=1e-5, atol=1e-6)
    causal = attention(q, k, v, documents_of(torch.tensor(bounds), 2, 80, packed.device)).flatten(0, 1)
    ends = torch.tensor(bounds[1:]) - 1
    torch.testing.assert_close(packed[ends], causal[ends], rtol=1e-5, atol=1e-6)  # nothing is behind the last
    assert not torch.allclose(packed, causal, rtol=1e-2, atol=1e-3)
