"""Losses of fine-tuning: what every one of them must do, and numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import Config, methods_of
from tasks.sft import losses
from tasks.sft.losses import ConfidenceLimited, CrossEntropy
from tasks.sft.losses.base import TokenPredictions
from tasks.sft.losses.confidence_limited import negative_log_coverage

EVERY = pytest.mark.parametrize("method", methods_of(losses), ids=lambda method: method.__name__)
WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
V, D = 11, 6


def learned(weighted: bool = False) -> TokenPredictions:
    """Three conversations of 2, 4 and 1 predictions; float64."""
    generator = torch.Generator().manual_seed(0)
    x, head = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (7, V))
    targets, owners = torch.randint(0, V, (7,), generator=generator), torch.tensor([0, 0, 1, 1, 1, 1, 2])
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.25, 1.0], dtype=torch.float64) if weighted else None
    total = 7.0 if weights is None else float(weights.sum())
    return TokenPredictions(x.requires_grad_(), head, targets, weights, owners, 3, total)


def some(whole: TokenPredictions, rows: slice) -> TokenPredictions:
    weights = None if whole.weights_K is None else whole.weights_K[rows]
    return replace(
        whole, x_KD=whole.x_KD[rows], targets_K=whole.targets_K[rows], weights_K=weights, owners_K=whole.owners_K[rows]
    )


def formula(method: Config, whole: TokenPredictions) -> Tensor:
    """What the method says, written out."""
    logp_K = (whole.x_KD @ whole.head_VD.T).log_softmax(-1)[torch.arange(7), whole.targets_K]
    weights_K = torch.ones(7, dtype=torch.float64) if whole.weights_K is None else whole.weights_K
    if isinstance(method, CrossEntropy):
        return -(weights_K * logp_K).sum() / weights_K.sum()
    assert isinstance(method, ConfidenceLimited)
    each = [(weights_K * logp_K)[whole.owners_K == c].sum().exp() for c in range(3)]
    return -torch.stack([torch.log(1 - (1 - p) ** method.samples) for p in each]).mean()


@EVERY
@WEIGHTED
def test_it_is_its_formula_and_so_is_its_gradient(method: type[Config], weighted: bool) -> None:
    whole = learned(weighted)
    found, wanted = method()(whole)[0], formula(method(), whole)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-7)
    grads = [torch.autograd.grad(loss, whole.x_KD, retain_graph=True)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


@EVERY
@WEIGHTED
def test_parts_of_a_step_add_up(method: type[Config], weighted: bool) -> None:
    whole = learned(weighted)
    loss, metrics = method()(whole)
    parts = [method()(some(whole, rows)) for rows in (slice(0, 2), slice(2, 7))]
    torch.testing.assert_close(sum(part for part, _ in parts), loss)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(more[name] for _, more in parts), value)


def test_coverage_by_hand() -> None:
    # p = 1/2 and 4 samples: 1 - (1/2)^4 = 15/16. A certain answer costs nothing, whatever N; with N = 1 it is -log p.
    logp = torch.tensor([math.log(0.5), 0.0, -3.0], dtype=torch.float64)
    assert negative_log_coverage(logp, 4)[:2].tolist() == pytest.approx([-math.log(15 / 16), 0.0], abs=1e-12)
    assert negative_log_coverage(logp, 1).tolist() == pytest.approx([math.log(2), 0.0, 3.0], abs=2e-9)


@settings(max_examples=200, derandomize=True)
@given(logp=st.floats(-400, 0), samples=st.integers(1, 1000))
def test_the_gradient_is_limited_by_confidence(logp: float, samples: int) -> None:
    """N p (1-p)^(N-1) / (1-(1-p)^N) times that of -log p, everywhere finite: near 1 where answers are rare, 0 where certain."""
    given = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    loss = negative_log_coverage(given, samples)
    (grad,) = torch.autograd.grad(loss.sum(), given)
    p = min(math.exp(logp), math.exp(-1e-9))
    covered = -math.expm1(samples * math.log1p(-p)) if p * samples > 1e-12 else p * samples
    factor = samples * p * math.exp((samples - 1) * math.log1p(-p)) / covered if covered else 1.0
    if logp < -1e-9:
        assert -grad.item() == pytest.approx(factor, rel=1e-5, abs=1e-9)
    assert math.isfinite(loss.item()) and 0 <= -grad.item() <= 1 + 1e-6
