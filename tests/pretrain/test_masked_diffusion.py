"""Masked diffusion: the loss beside a loop, the bound by all masks, draws that follow from the step alone, and weights that every
parameter changes."""

import math
from collections.abc import Callable, Hashable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from lm.averages import Last
from lm.config import methods_of
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch, backward
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tasks.pretrain import ratios
from tasks.pretrain.objectives import MaskedDiffusion
from tasks.pretrain.objectives.base import LossPosition
from tasks.pretrain.objectives.masked_diffusion import isolated_bounds
from tasks.pretrain.ratios import LogitNormal, Rising, Uniform
from tasks.pretrain.ratios.base import LEAST
from tasks.pretrain.step import loss_of
from tests.lm.made_parts import ids_of, stirred
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder
from tests.neighbours import every_neighbour

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "even": {"low_discrepancy": True},
    "clamped": {"clamp": 2.0},
    "both halves": {"complementary": True},
    "both halves, clamped": {"complementary": True, "clamp": 1.5, "low_discrepancy": True},
    "logit-normal": {"ratio": {"name": "logit_normal", "mean": 0.5}},
    "rising": {"ratio": {"name": "rising"}},
}
WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
AT = LossPosition(seed=3, step=5, steps=11)
BOUNDS = torch.tensor([0, 3, 8, 16, 21, 24, 32])


def masked_model(**shape: object) -> Decoder:
    return stirred(toy_model(seed=1, causal=False, vocab_size=262, **shape))


def objective_of(way: dict[str, Any]) -> Any:
    return MaskedDiffusion.model_validate(way)


def capped(logits: Tensor, model: Decoder) -> Tensor:
    cap = model.config.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def by_loop(model: Decoder, objective: Any, tokens: Tensor, counted: Tensor, at: LossPosition) -> Tensor:
    """The sum over sequences, tokens and views, all logits at once and one token after the other."""
    found, targets = torch.zeros(()), tokens[:, 1:]
    views = objective.masks(at, *targets.shape, targets.device)
    for masked, ratio_R in views:
        hidden = masked & counted
        inputs = targets.masked_fill(hidden, 261)
        logps = capped(model.hidden(inputs) @ model.head_weight[:261].T, model).log_softmax(-1)
        for row, place in hidden.nonzero().tolist():
            weight = min(1 / float(ratio_R[row]), objective.clamp or math.inf)
            found = found - weight * logps[row, place, targets[row, place]]
    return found / len(views)


@WAY
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_a_loop(way: dict[str, Any], tied: bool) -> None:
    cap = None if tied else 1.5
    model, objective, tokens = masked_model(tied=tied, logit_softcap=cap), objective_of(way), ids_of(4, 9)
    counted = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.8
    loss, _ = objective(model, tokens, None, 32, counted, at=AT)
    loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    wanted = by_loop(model, objective, tokens, counted, AT) / 32
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    for name, weight in model.named_parameters():
        close = {"rtol": 1e-3, "atol": 1e-5 * float(weight.grad.abs().max())}
        torch.testing.assert_close(ours[name], weight.grad, **close, msg=name)
    if not tied:
        assert not ours["head.weight"][261].any()  # no probability is the mask's
    assert ours["embedding.weight"][261].any()


def cross_entropies(model: Decoder, ids: Tensor) -> dict[tuple[bool, ...], float]:
    """Of every mask of the sequence but the empty one, the sum of the cross-entropies of its tokens (nats)."""
    found = {}
    with torch.no_grad():
        for mask in product([False, True], repeat=len(ids)):
            hidden = torch.tensor(mask)
            logits = model.hidden(ids.masked_fill(hidden, 261)[None])[0] @ model.head_weight[:261].T
            logps = capped(logits, model).log_softmax(-1)
            if any(mask):
                found[mask] = -float(logps[torch.arange(len(ids)), ids][hidden].sum())
    return found


def enumerated(model: Decoder, ids: Tensor) -> float:
    """The bound by hand: masks of k of K tokens have k - 1 and K - k of ratios above and below, whose integral over t^k (1 -
    t)^(K - k) / t is 1 / (k (K over k))."""
    K = len(ids)
    return sum(nats / (sum(mask) * math.comb(K, sum(mask))) for mask, nats in cross_entropies(model, ids).items())


def mean_loss(model: Decoder, objective: Any, tokens: Tensor, steps: int = 16, rows: int = 512) -> float:
    """Nats of the sequence, over many draws."""
    with torch.no_grad():
        batch = tokens.expand(rows, -1)
        losses = [
            float(objective(model, batch, None, rows, at=LossPosition(7, step, steps))[0]) for step in range(steps)
        ]
    return sum(losses) / steps


@pytest.mark.parametrize("way", ["plain", "even", "both halves"])
def test_the_mean_over_draws_is_the_bound_of_all_masks(way: str) -> None:
    model, tokens = masked_model(), torch.tensor([[9, 7, 250, 7]])
    assert mean_loss(model, objective_of(WAYS[way]), tokens) == pytest.approx(
        enumerated(model, tokens[0, 1:]), rel=0.03
    )


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.0, 0.5)])
def test_the_mean_over_a_law_and_of_clamped_weights_is_its_integral(mean: float, deviation: float) -> None:
    """Of a density p of ratios the mean is the integral of p(t) w(t) sum over masks of t^k (1 - t)^(3 - k) times their nats."""
    model, tokens = masked_model(), torch.tensor([[9, 7, 250, 7]])
    nats = cross_entropies(model, tokens[0, 1:])
    t = (np.arange(20000) + 0.5) / 20000

    def integral(density: np.ndarray, weight: np.ndarray) -> float:
        return float(
            sum(np.mean(density * weight * t ** sum(m) * (1 - t) ** (3 - sum(m))) * n for m, n in nats.items())
        )

    logit = np.log(t / (1 - t))
    normal = np.exp(-((logit - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi) * t * (1 - t))
    assert np.mean(normal) == pytest.approx(1, rel=1e-3)
    law = MaskedDiffusion(ratio=LogitNormal(mean=mean, deviation=deviation))
    assert mean_loss(model, law, tokens) == pytest.approx(integral(normal, 1 / t), rel=0.03)
    clamped = MaskedDiffusion(clamp=2.0)
    assert mean_loss(model, clamped, tokens) == pytest.approx(integral(np.ones(1), np.minimum(1 / t, 2.0)), rel=0.03)


@WAY
def test_metrics_are_the_bound_s_estimate_and_the_share_that_is_masked(way: dict[str, Any]) -> None:
    model, objective, tokens, each = masked_model(), objective_of(way), ids_of(4, 9), torch.full((4, 8), math.nan)
    loss, metrics = objective(model, tokens, None, 32, None, each, AT)
    unclamped, _ = objective.model_copy(update={"clamp": None})(model, tokens, None, 32, at=AT)
    torch.testing.assert_close(metrics["cross_entropy"], unclamped.detach())
    assert (loss < unclamped) if objective.clamp else (loss == unclamped)
    torch.testing.assert_close(each.mean(), unclamped.detach())
    views = objective.masks(AT, 4, 8, tokens.device)
    assert float(metrics["mask_ratio"]) == pytest.approx(
        float(sum(m.masked_RT.float().mean() for m in views)) / len(views)
    )
    assert torch.equal(each != 0, torch.stack([m.masked_RT for m in views]).any(0))


@WAY
@pytest.mark.parametrize("within", [False, True])
def test_parts_of_a_batch_add_up(way: dict[str, Any], within: bool) -> None:
    model, objective, tokens, each = masked_model(), objective_of(way), ids_of(4, 9), torch.zeros(4, 8)

    def loss(rows: slice) -> tuple[Tensor, dict]:
        return loss_of(objective, model, tokens, BOUNDS if within else None, rows, 32, None, each[rows], AT)

    whole, told = backward(Batch(4, 8, 32, loss), 1000)
    kept = each.clone()
    parts, told_of_parts = backward(Batch(4, 8, 32, loss), 8)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(each, kept)
    assert told_of_parts == pytest.approx({name: float(value) for name, value in told.items()}, rel=1e-5)


def test_what_does_not_count_is_seen_and_never_masked() -> None:
    model, tokens, each = masked_model(), ids_of(2, 9), torch.zeros(2, 8)
    counted = torch.ones(2, 8, dtype=torch.bool)
    counted[:, :4] = False
    objective = MaskedDiffusion(complementary=True)  # which masks every token that it may
    objective(model, tokens, None, 8, counted, each, AT)
    assert not each[:, :4].any() and each[:, 4:].all()
    changed, other = tokens.clone(), each.clone()
    changed[:, 2] = (tokens[:, 2] + 1) % 261
    objective(model, changed, None, 8, counted, other, AT)
    assert not torch.isclose(other[:, 4:], each[:, 4:]).any()


def test_documents_of_what_is_predicted_by_hand() -> None:
    """Rows of inputs 0 1 2 3 with documents 0 1 and 2 3, and one of a document; predicted are 1 to 4."""
    assert isolated_bounds(torch.tensor([0, 2, 4, 8]), 2, 4).tolist() == [0, 1, 3, 4, 7, 8]
    assert isolated_bounds(torch.tensor([0, 1, 3]), 1, 3).tolist() == [0, 2, 3]
    assert isolated_bounds(torch.tensor([0, 1]), 1, 1).tolist() == [0, 1]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_no_two_of_one_group_are_of_two_documents(lengths: list[int]) -> None:
    """Two rows of 9 tokens, each of which knows its document; bounds are of the first 8 of each."""
    documents = torch.arange(18).div(9, rounding_mode="floor") * 100
    documents += torch.bucketize(torch.arange(18), torch.tensor(lengths).cumsum(0), right=True)
    of_rows = documents.view(2, 9)
    starts = [r * 8 + c for r in range(2) for c in range(8) if c == 0 or of_rows[r, c] != of_rows[r, c - 1]]
    found = isolated_bounds(torch.tensor([*starts, 16]), 2, 8)
    assert found[0] == 0 and found[-1] == 16 and {7, 8, 15} <= set(found.tolist())
    predicted = of_rows[:, 1:].flatten()
    for start, end in zip(found.tolist(), found.tolist()[1:], strict=False):
        assert len(predicted[start:end].unique()) == 1
        inside = start % 8 not in (0, 7)
        assert not inside or predicted[start - 1] != predicted[start]  # none is cut but at the end of a row


@WAY
def test_tokens_of_a_document_depend_on_no_other(way: dict[str, Any]) -> None:
    """Inputs 0 1 2 | 3 ... 7 of the first row: what is predicted of the second document does not hang on the first."""
    model, objective, tokens = masked_model(), objective_of({**way}), ids_of(4, 9)
    found = []
    for changes in ([], [(0, 2)], [(0, 8)], [(1, 4)]):
        changed, each = tokens.clone(), torch.zeros(4, 8)
        for row, place in changes:
            changed[row, place] = (tokens[row, place] + 1) % 261
        objective(model, changed, BOUNDS, 32, None, each, at=LossPosition(3, 5, 6))
        found.append(each)
    plain, first, last, other = found
    assert torch.equal(plain[0, 2:], first[0, 2:]) and torch.equal(plain[1:], first[1:])
    assert torch.equal(plain[0, :7], last[0, :7]) and torch.equal(plain[1:], last[1:])
    assert torch.equal(plain[0], other[0]) and torch.equal(plain[2:], other[2:])


def test_what_is_drawn_follows_from_seed_step_and_row() -> None:
    whole = MaskedDiffusion().masks(AT._replace(rows=8), 8, 64, torch.device("cpu"))[0]
    some = MaskedDiffusion().masks(AT._replace(first=5, rows=8), 2, 64, torch.device("cpu"))[0]
    assert torch.equal(whole.masked_RT[5:7], some.masked_RT) and torch.equal(whole.ratios_R[5:7], some.ratios_R)
    assert len(set(whole.ratios_R.tolist())) == 8
    for other in (AT._replace(seed=4), AT._replace(step=6)):
        again = MaskedDiffusion().masks(other, 8, 64, torch.device("cpu"))[0]
        assert not set(again.ratios_R.tolist()) & set(whole.ratios_R.tolist())
    assert whole.masked_RT.float().mean(1).tolist() == pytest.approx(whole.ratios_R.tolist(), abs=0.2)


def test_even_draws_are_as_far_apart_as_can_be_whichever_rows_are_asked_for() -> None:
    objective = MaskedDiffusion(low_discrepancy=True)
    ratios_R = objective.masks(AT._replace(rows=8), 8, 16, torch.device("cpu"))[0].ratios_R
    gaps = ratios_R.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((7,), (1 - LEAST) / 8))
    some = objective.masks(AT._replace(first=3, rows=8), 4, 16, torch.device("cpu"))[0].ratios_R
    torch.testing.assert_close(some, ratios_R[3:7])


def test_the_second_view_masks_what_the_first_leaves() -> None:
    first, second = MaskedDiffusion(complementary=True).masks(AT, 4, 32, torch.device("cpu"))
    assert torch.equal(first.masked_RT, ~second.masked_RT)
    torch.testing.assert_close(first.ratios_R + second.ratios_R, torch.ones(4))
    model, objective = masked_model(), MaskedDiffusion(complementary=True)
    objective.add_modules(model, 0)
    assert model.passes == 2
    objective.drop(model)
    assert model.passes == 1


POINTS = (torch.arange(512, dtype=torch.float64) + 0.5) / 512


@pytest.mark.parametrize("law", methods_of(ratios), ids=lambda law: law.__name__)
def test_a_law_gives_ratios_that_rise_with_its_points(law: Any) -> None:
    for progress in (0.0, 0.5, 1.0):
        found = law()(torch.cat((torch.zeros(1, dtype=torch.float64), POINTS)), progress)
        assert found.dtype == torch.float64 and found.min() >= LEAST and found.max() <= 1
        assert (found.diff() >= 0).all() and (law.drawn == bool((found[1:].diff() > 0).all()))
    assert law.by_run == (not torch.equal(law()(POINTS, 0.2), law()(POINTS, 0.7)))


def test_laws_by_hand() -> None:
    assert Uniform()(torch.tensor([0.0, 0.5], dtype=torch.float64), 0.3).tolist() == pytest.approx([LEAST, 0.5005])
    found = LogitNormal(mean=1.0, deviation=2.0)(POINTS, 0.0)
    assert torch.logit(found).mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.logit(found).std().item() == pytest.approx(2.0, rel=0.02)
    even, wave = (Rising(start=0.2, end=0.6, course=course) for course in ("linear", "cosine"))
    for progress, by_line, by_wave in ((0.0, 0.2, 0.2), (0.25, 0.3, 0.2586), (0.5, 0.4, 0.4), (1.0, 0.6, 0.6)):
        assert even(POINTS, progress)[7].item() == pytest.approx(by_line)
        assert wave(POINTS, progress)[7].item() == pytest.approx(by_wave, abs=1e-4)


def test_a_rising_ratio_is_the_first_one_first_and_the_last_one_last() -> None:
    objective = MaskedDiffusion(ratio=Rising(start=0.2, end=0.6))
    told = [
        objective.masks(LossPosition(0, step, 5), 2, 8, torch.device("cpu"))[0].ratios_R.tolist() for step in range(5)
    ]
    assert told == [pytest.approx([each] * 2) for each in (0.2, 0.3, 0.4, 0.5, 0.6)]
    assert objective.by_run and not MaskedDiffusion().by_run


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ratio": {"name": "rising", "start": 0.5, "end": 0.2}}, "end 0.2 is below start 0.5"),
        ({"ratio": {"name": "rising"}, "complementary": True}, "complementary: rising gives all sequences"),
        ({"ratio": {"name": "rising"}, "low_discrepancy": True}, "low_discrepancy: rising gives all sequences"),
        ({"clamp": 0.0}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MaskedDiffusion.model_validate(given)


def fit(scratch: Path, objective: Any, after: int | None = None, steps: int = 4) -> Decoder:
    model = toy_model(seed=1, causal=False, vocab_size=262)
    recipe = Recipe(optimizer=AdamW(lr=1e-2), schedule=Cosine(), average=Last(), clip=1.0)
    objective.add_modules(model, 0)

    def batch_at(step: int) -> Batch:
        tokens, at = ids_of(4, 9, seed=step), LossPosition(0, step, steps)
        return Batch(4, 8, 32, lambda rows: loss_of(objective, model, tokens, BOUNDS, rows, 32, at=at))

    train(model, recipe, steps, batch_at, Recorder(scratch, after))
    objective.drop(model)
    return model


@pytest.mark.parametrize("way", ["plain", "both halves, clamped", "rising"])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(tmp_path: Path, way: str) -> None:
    whole, objective = fit(tmp_path / "whole", objective_of(WAYS[way])), objective_of(WAYS[way])
    with pytest.raises(Stopped):
        fit(tmp_path / "cut", objective, 2)
    resumed = fit(tmp_path / "cut", objective).state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())


def trained_bytes(folder: Callable[[], Path], way: dict[str, Any] | Any) -> Hashable:
    objective = objective_of(way) if isinstance(way, dict) else way
    return tuple(weight.detach().numpy().tobytes() for weight in fit(folder(), objective).parameters())


def test_every_way_and_every_parameter_makes_other_weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = lambda: tmp_path_factory.mktemp("run")  # noqa: E731
    found = {trained_bytes(folder, way) for way in WAYS.values()}
    assert len(found) == len(WAYS)
    before = {law: trained_bytes(folder, MaskedDiffusion(ratio=law())) for law in methods_of(ratios)}
    for tries in every_neighbour(methods_of(ratios)):
        other = trained_bytes(folder, MaskedDiffusion(ratio=tries[0]))
        assert other != before[type(tries[0])], tries[0]
