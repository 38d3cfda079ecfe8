"""Training with the nearest of few centroids: by hand, gradients beside torch's own through k-means, and what is held of it."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lm.linears import Centroids
from lm.linears.clustered import (
    PATTERNS,
    Clustered,
    ClusteredLinear,
    Values,
    attention,
    moved,
    nearest,
    slopes,
    values_of,
)

# the attention is to one centroid alone, and no mean is another's by more than fp32 rounds
HARD = torch.tensor(1e-3)


def layer_of(weights: list[list[float]], **given: Any) -> ClusteredLinear:
    plain = nn.Linear(len(weights[0]), len(weights), bias=False)
    plain.weight = nn.Parameter(torch.tensor(weights))
    layer = Centroids(**given).build("blocks.0.ffn.up", plain)
    assert isinstance(layer, ClusteredLinear)
    return layer


def test_by_hand() -> None:
    """Two centroids begin at the first and the last quarter of the sorted weights, -1 and 3, and come to the means of {-2, -1, 0}
    and {3, 5}: weights are exact in bfloat16."""
    layer = layer_of([[-1.0, 5.0, 0.0], [3.0, -2.0, -1.0]], bits=1, temperature=1e-4)
    assert layer.centroids.tolist() == [-1.0, 4.0]
    assert layer.merged().weight.tolist() == [[-1.0, 4.0, -1.0], [4.0, -1.0, -1.0]]
    with torch.no_grad():
        layer.weight[0, 2] = 6.0  # nearer to the other one, which moves
    assert layer(torch.tensor([0.0, 0.0, 1.0])).tolist() == [
        pytest.approx(14 / 3, rel=2**-8),
        pytest.approx(-4 / 3, rel=2**-8),
    ]
    layer.begin(1, turn=True)
    assert layer.centroids.tolist() == pytest.approx([-4 / 3, 14 / 3])


def test_a_weight_between_two_centroids_attends_to_both() -> None:
    """By hand: of a distance of 1 and one of 3 at temperature 2 the shares are 1 and e^-1, over their sum."""
    shares = attention(torch.tensor([1.0]), torch.tensor([0.0, 4.0]), torch.tensor(2.0))
    assert shares[0].tolist() == pytest.approx([1 / (1 + torch.e**-1), torch.e**-1 / (1 + torch.e**-1)])


def test_a_centroid_that_nothing_attends_to_stays() -> None:
    values = Values(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 1.0]), torch.tensor([0, 0, 0, 1]))
    assert moved(values, torch.tensor([0.25, 100.0]), HARD).tolist() == [0.25, 100.0]  # (3 x 0 + 1) / 4


@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0.05, 2.0))
def test_slopes_are_those_of_torch_through_one_step_of_k_means(seed: int, bits: int, temperature: float) -> None:
    """With values that several weights have, in fp64; what torch takes the gradient of is written here, a row a weight."""
    draws = torch.Generator().manual_seed(seed)
    value_U = torch.randn(7, generator=draws, dtype=torch.float64)
    row = torch.cat((torch.arange(7), torch.randint(0, 7, (12,), generator=draws)))
    counts_U = torch.bincount(row).double()
    before_K = torch.randn(2**bits, generator=draws, dtype=torch.float64)
    grad, at = (
        torch.randn(len(row), generator=draws, dtype=torch.float64),
        torch.tensor(temperature, dtype=torch.float64),
    )
    weights = value_U[row].requires_grad_()
    first = (-(weights[:, None] - before_K).abs() / at).softmax(1)
    centroids = (first * weights[:, None]).sum(0) / first.sum(0)
    soft = (-(weights[:, None] - centroids).abs() / at).softmax(1) @ centroids
    (soft * grad).sum().backward()
    values = Values(value_U, counts_U, row)
    grad_U = torch.zeros(7, dtype=torch.float64).index_add(0, row, grad)
    own_U, others_U = slopes(values, grad_U, before_K, moved(values, before_K, at), at)
    torch.testing.assert_close(grad * own_U[row] + others_U[row], weights.grad, rtol=1e-8, atol=1e-9)


def test_weights_that_share_their_values_have_the_same_products_and_gradients() -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    start, at = torch.linspace(-2, 2, 8), torch.tensor(0.05)
    found: list[tuple[Tensor, Tensor]] = []
    for shared in (False, True):
        own = weight.clone().requires_grad_()
        made = Clustered.apply(own, start, at, shared)
        (made * weight.flip(0)).sum().backward()
        found.append((made.detach(), own.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)  # sums of 2000 in another order, fp32


def test_values_are_those_of_bfloat16_and_counted() -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    values = values_of(weight, shared=True)
    assert len(values.value_U) == PATTERNS and torch.isfinite(values.value_U).all()
    assert torch.equal(values.value_U[values.row], weight.bfloat16().float().flatten())
    assert values.counts_U.sum() == 600 and (values.counts_U[values.row] >= 1).all()


def test_what_is_held_for_the_backward_pass_does_not_grow_with_centroids() -> None:
    """A weight's 16 bits beside the table of values, where attention itself would be 4 bytes x 8 centroids a weight."""
    plain = nn.Linear(1000, 800, bias=False)
    layer = Centroids(bits=3).build("blocks.0.ffn.up", plain)
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer.dense()
    assert sum(held.values()) < 2 * plain.weight.numel() + 10 * PATTERNS < 4 * plain.weight.numel()


def test_of_two_that_are_as_near_the_lower_is_taken() -> None:
    assert nearest(torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0, 3.0])).tolist() == [0, 1]
