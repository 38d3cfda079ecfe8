"""Ways to empty a matrix: what every one of them must do, and small cases worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config, methods_of
from tasks.prune import weights
from tasks.prune.weights import Magnitude, SparseGpt, Wanda, Whole, sparse_gpt
from tasks.prune.weights.base import prune_mask

METHODS = [method for method in methods_of(weights) if method is not Whole]
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
quick = settings(deadline=None, max_examples=25, derandomize=True)


def normal(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, columns: int) -> Tensor:
    """Inputs that lie near a few directions, as those of a real layer do, of sizes that differ."""
    few = max(columns // 8, 1)
    made = normal((rows, few), 1) @ normal((few, columns), 2) + 0.1 * normal((rows, columns), 3)
    return made * torch.linspace(0.2, 2, columns)


@EVERY
@quick
@given(
    shape=st.sampled_from([(8, 64), (5, 150), (3, 33), (1, 16)]), seed=st.integers(0, 100),
    share=st.sampled_from([0.25, 0.5, 0.8]), of=st.sampled_from([0, 4, 8]),
)  # fmt: skip
def test_as_many_go_as_are_to(method: type[Config], shape: tuple[int, int], seed: int, share: float, of: int) -> None:
    weight, inputs = normal(shape, seed), correlated(60, shape[1])
    before = weight.clone()
    made = method(share=share, of=of)(weight, LayerInputs(inputs))
    assert torch.equal(weight, before) and made.dtype == weight.dtype and made.shape == weight.shape
    zeros = made == 0
    if of:
        for part in zeros.split(of, dim=1):
            assert (part.sum(1) == round(share * part.shape[1])).all()
    else:
        assert abs(int(zeros.sum()) - share * weight.numel()) <= shape[0] + 2  # rounded by row or by block


@EVERY
def test_what_stays_is_what_matters_more(method: type[Config]) -> None:
    """Entries far larger than others stay, whatever the method compares them by."""
    weight = normal((6, 40)) * 1e-3
    large = torch.zeros(6, 40, dtype=torch.bool)
    large[:, ::4] = True
    weight[large] += 1
    made = method(share=0.5)(weight, LayerInputs(correlated(100, 40)))
    assert (made[large] != 0).all()


@pytest.mark.parametrize("of", [0, 4])
def test_what_is_lost_of_the_output_falls_from_magnitude_to_wanda_to_sparse_gpt(of: int) -> None:
    weight, inputs = normal((24, 128)), correlated(400, 128)
    lost = [
        ((method(share=0.5, of=of)(weight, LayerInputs(inputs)) - weight) @ inputs.T).square().sum().item()
        for method in (Magnitude, Wanda, SparseGpt)
    ]
    # in groups of four there is less to choose from
    assert lost[0] > (1.1 if of else 1.2) * lost[1] and lost[1] > (1.3 if of else 1.5) * lost[2]


def test_which_go_by_hand() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0, 6.0], [3.0, 4.0, 7.0, 8.0]])
    assert prune_mask(scores, 0.5, 0, by_row=False).tolist() == [[True, False, True, False], [True, True, False, False]]
    assert prune_mask(scores, 0.5, 0, by_row=True).tolist() == [[True, False, True, False], [True, True, False, False]]
    assert prune_mask(scores, 0.25, 0, by_row=False).tolist() == [[True, False, True, False], [False] * 4]
    assert prune_mask(scores, 0.25, 0, by_row=True).tolist() == [[True, False, False, False]] * 2
    assert prune_mask(scores, 0.5, 2, by_row=False).tolist() == [[True, False, True, False]] * 2
    # of a group of three, the last one of a row of three in groups of two is alone: half of one is rounded to none
    assert prune_mask(scores[:, :3], 0.5, 2, by_row=False).tolist() == [[True, False, False]] * 2


def test_wanda_by_hand() -> None:
    # norms of the inputs 5 and 1: scores 5 and 4, 10 and 9 to compare in each row
    inputs, weight = torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.tensor([[1.0, -4.0], [-2.0, 11.0]])
    assert Wanda(share=0.5)(weight, LayerInputs(inputs)).tolist() == [[1.0, 0.0], [0.0, 11.0]]
    assert Magnitude(share=0.5)(weight, None).tolist() == [[0.0, -4.0], [0.0, 11.0]]


def test_sparse_gpt_makes_up_for_what_goes_as_least_squares_would() -> None:
    """Of two inputs that always are the same, the weight of the one that goes is taken by the other: to the damping."""
    inputs = normal((50, 1)).repeat(1, 2)
    made = SparseGpt(share=0.5, damping=1e-6)(torch.tensor([[0.3, 1.0]]), LayerInputs(inputs))
    torch.testing.assert_close(made, torch.tensor([[0.0, 1.3]]), rtol=1e-3, atol=1e-3)


def test_sparse_gpt_equals_the_plain_algorithm() -> None:
    """Column after column with the whole inverse, updated by elimination, of one block."""
    weight, inputs = normal((6, 40)).double(), correlated(200, 40).double()
    hessian = inputs.T @ inputs / len(inputs)
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(40))
    left, steps = weight.clone(), []
    eliminated = inverse.clone()
    for column in range(40):  # the diagonal as each column's turn comes, which is the factor's squared
        steps.append(eliminated[column, column].item())
        eliminated = eliminated - eliminated[:, column, None] * eliminated[column] / eliminated[column, column]
    going = prune_mask(weight.square() / torch.tensor(steps), 0.5, 0, by_row=False)
    for column in range(40):
        lost = left[:, column] * going[:, column] / inverse[column, column]
        left -= lost[:, None] * inverse[column]
        left[:, column][going[:, column]] = 0
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
        inverse[column, :] = 0
    made = SparseGpt(share=0.5)(weight, LayerInputs(inputs))
    torch.testing.assert_close(made, left.where(~going, 0.0), rtol=1e-6, atol=1e-8)


def test_what_is_lost_is_handed_on_from_block_to_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where groups are chosen as their turn comes, columns handed on sooner or later give the same."""
    weight, inputs = normal((6, 60)).double(), correlated(200, 60).double()
    whole = SparseGpt(share=0.5, of=4)(weight, LayerInputs(inputs))
    monkeypatch.setattr(sparse_gpt, "BLOCK", 16)
    torch.testing.assert_close(SparseGpt(share=0.5, of=4)(weight, LayerInputs(inputs)), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [Wanda, SparseGpt])
def test_it_says_that_it_needs_inputs(method: type[Config]) -> None:
    with pytest.raises(ValueError, match="needs the inputs"):
        method()(normal((2, 4)), None)


def test_a_group_of_which_none_or_all_would_go_is_refused() -> None:
    for share, of in ((0.1, 4), (0.9, 4), (0.5, 1)):
        with pytest.raises(ValidationError, match="take a larger group"):
            Magnitude(share=share, of=of)
    assert Whole()(normal((2, 2)), None).numel() == 4
