"""What every law of the room does: recovers what made the numbers, whatever their order; says in a line what it cannot fit."""

import json
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.arena import fits
from flows.arena.fits import ComputeGain, CriticalBatch, Depth, Extrapolation, Parameters, Seconds, Tokens
from flows.arena.fits.law import CannotFit, Floats, Law
from lm.config import methods_of

TOKENS = np.geomspace(1e5, 1e7, 9)
SIZES, DATA = (grid.ravel() for grid in np.meshgrid([1e5, 4e5, 1.6e6, 6.4e6], [1e6, 4e6, 1.6e7, 6.4e7]))
COPIES = 40 * SIZES**0.8
PACE = 3e-9 * COPIES + 2e-5  # seconds a token
BATCHES = 512.0 * 2 ** np.arange(8)
DEPTHS = np.array([2.0, 4, 8, 16, 2, 4, 8, 16])
OF_DEPTHS = np.array([1e6] * 4 + [4e6] * 4)
FEW = 100  # resamples: the least that may be asked for


def of_tokens(tokens: Floats) -> Floats:
    return 1.6 + 40 / tokens**0.3


def of_both(parameters: Floats, tokens: Floats) -> Floats:
    return 1.2 + 30 / parameters**0.34 + 60 / tokens**0.28


def of_depth(depths: Floats, parameters: Floats) -> Floats:
    """Lowest at depth 6: 3% more a squared factor of e from it, and a level of its own for each size."""
    return (2 + 1e6 / parameters) * np.exp(0.03 * np.log(depths / 6) ** 2)


class Case(NamedTuple):
    """Numbers made by a known law."""

    law: Any
    columns: list[Floats]
    truth: dict[str, float]
    at: tuple[Any, ...]  # what to predict for
    expected: Any
    more: tuple[Any, ...] = ()  # arguments that are no columns
    measured: tuple[int, ...] = (-1,)  # columns that noise comes upon


CASES = {
    "tokens": Case(
        Tokens(resamples=FEW), [TOKENS, of_tokens(TOKENS)], {"E": 1.6, "A": 40, "a": 0.3}, (1e9,), of_tokens(np.array(1e9))
    ),
    "extrapolation": Case(
        Extrapolation(resamples=FEW, skip_fraction=0.0),
        [TOKENS, of_tokens(TOKENS)],
        {"E": 1.6, "A": 40, "a": 0.3},
        (3e7,),
        of_tokens(np.array(3e7)),
        (3e7,),
    ),
    "parameters": Case(
        Parameters(resamples=FEW),
        [SIZES, DATA, of_both(SIZES, DATA)],
        {"E": 1.2, "A": 30, "alpha": 0.34, "B": 60, "beta": 0.28},
        (1e9, 2e10),
        of_both(np.array(1e9), np.array(2e10)),
    ),
    "seconds": Case(
        Seconds(resamples=FEW),
        [SIZES, COPIES, DATA, PACE * DATA, of_both(SIZES, DATA)],
        {"E": 1.2, "A": 30, "alpha": 0.34, "B": 60, "beta": 0.28, "c": 3e-9, "d": 2e-5},
        (1e6, 1e7, 3600.0),
        of_both(np.array(1e6), np.array(3600 / (3e-9 * 1e7 + 2e-5))),
        measured=(3, 4),
    ),
    "critical_batch": Case(
        CriticalBatch(resamples=FEW),
        [BATCHES, 2e6 + 250 * BATCHES],
        {"E_min": 2e6, "S_min": 250, "B_crit": 8000},
        (8000.0,),
        4e6,
    ),
    "compute_gain": Case(
        ComputeGain(resamples=FEW),
        [TOKENS * 1e6, of_tokens(TOKENS), TOKENS * 1e6, of_tokens(1.7 * TOKENS)],
        {"gain": 1.7, "E_arm": 1.6, "a_baseline": 0.3},
        ([1e11, 1e15],),
        [1.7, 1.7],
        measured=(1, 3),
    ),
    "depth": Case(
        Depth(resamples=FEW),
        [DEPTHS, OF_DEPTHS, of_depth(DEPTHS, OF_DEPTHS)],
        {"optimum": 6, "bend": 0.03, "exponent": 0.06 * np.log(np.sqrt(32) / 6), "middle": np.sqrt(32)},
        ([np.sqrt(32), 12.0],),
        of_depth(np.array([np.sqrt(32), 12.0]), np.array(1e6)) / of_depth(np.sqrt(32), np.array(1e6)),
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", [method.model_fields["name"].default for method in methods_of(fits)])


def noisy(case: Case, seed: int, sigma: float = 0.01) -> list[Floats]:
    random, columns = np.random.default_rng(seed), list(case.columns)
    for index in case.measured:
        columns[index] = columns[index] * np.exp(sigma * random.standard_normal(len(columns[index])))
    return columns


def same(one: Law, other: Law) -> bool:
    """Whether two laws are equal to the bit."""
    return bool(np.array_equal(one.values, other.values) and np.array_equal(one.draws, other.draws))


@EVERY
def test_what_a_known_law_made_is_recovered(name: str) -> None:
    case = CASES[name]
    law = case.law(*case.columns, *case.more)
    for parameter, value in case.truth.items():
        assert law[parameter] == pytest.approx(value, rel=1e-5), parameter
        assert law.interval(parameter) == pytest.approx((value, value), rel=1e-4), parameter
    assert law.predict(*case.at) == pytest.approx(case.expected, rel=1e-6)
    assert law.residual < 1e-7


@EVERY
def test_the_order_of_runs_changes_nothing(name: str) -> None:
    case = CASES[name]
    columns = noisy(case, 1)
    length = len(columns[-1])
    order = np.random.default_rng(2).permutation(length)
    shuffled = [column[order] if len(column) == length else column[::-1] for column in columns]
    law, other = (case.law(*given, *case.more) for given in (columns, shuffled))
    assert same(law, other) and law.report() == other.report()


@EVERY
def test_a_fit_is_the_same_twice_and_its_seed_moves_the_interval_alone(name: str) -> None:
    case = CASES[name]
    columns = noisy(case, 3)
    law = case.law(*columns, *case.more)
    assert same(law, case.law(*columns, *case.more))
    reseeded = case.law.model_copy(update={"seed": 1})(*columns, *case.more)
    assert np.array_equal(law.values, reseeded.values) and not np.array_equal(law.draws, reseeded.draws)


@EVERY
def test_intervals_hold_the_fit_and_are_json(name: str) -> None:
    case = CASES[name]
    law = case.law(*noisy(case, 4), *case.more)
    report = json.loads(json.dumps(law.report(), allow_nan=False))
    assert list(report["parameters"]) == list(law.names) and report["points"] == len(law.residuals)
    for parameter in case.truth:
        low, high = law.interval(parameter)
        assert low <= law[parameter] <= high
    assert 0.003 < report["residual"] < 0.02  # noise of 1%
    low, high = law.band(*case.at)
    assert np.shape(low) == np.shape(high) == np.shape(law.predict(*case.at)) and np.all(low <= high)


@EVERY
def test_a_higher_level_is_a_wider_interval(name: str) -> None:
    case = CASES[name]
    columns = noisy(case, 5)
    narrow, wide = (case.law.model_copy(update={"level": level})(*columns, *case.more) for level in (0.5, 0.9))
    for parameter in set(case.truth) - {"middle"}:
        (low, high), (lower, higher) = narrow.interval(parameter), wide.interval(parameter)
        assert lower <= low <= high <= higher and higher - lower > high - low, parameter


@EVERY
def test_a_method_is_frozen_and_refuses_what_it_does_not_know(name: str) -> None:
    kind = type(CASES[name].law)
    with pytest.raises(ValidationError):
        kind(level=1.0)
    with pytest.raises(ValidationError):
        kind(resample=10)
    with pytest.raises(ValidationError):
        CASES[name].law.level = 0.5


BAD = [
    (lambda c: [c[:2] for c in c], r"needs \d or more (runs|different \w+): got \d|parameters and tokens change"),
    (lambda c: [c[:0] for c in c], r"needs \d or more different \w+: got 0"),
    (lambda c: [*c[:-1], c[-1][:-1]], r"each run needs a number of each kind: got .*\d losses|\d tokens"),
    (lambda c: [*c[:-1], c[-1] * np.nan], r"must be finite and above 0: got nan for run 1 of \d"),
    (lambda c: [*c[:-1], np.append(c[-1][:-1], np.inf)], r"must be finite and above 0: got inf for run (\d+) of \1"),
    (lambda c: [*c[:-1], -c[-1]], r"must be finite and above 0: got -"),
    (lambda c: [*c[:-1], [None] * len(c[-1])], r"must be (numbers|finite and above 0)"),
    (lambda c: [*c[:-1], ["a"] * len(c[-1])], r"must be numbers, one a run"),
    (lambda c: [*c[:-1], c[-1][:, None]], r"must be one number a run: got an array of shape"),
    (lambda c: [*c[:-1], np.full_like(c[-1], 2.5)], r"all \d+ losses are 2.5: there is nothing|do not grow with batch"),
    (lambda c: [np.full_like(c[0], 3.0), *c[1:]], r"needs \d or more different \w+: got 1"),
]  # fmt: skip


@EVERY
@pytest.mark.parametrize(("spoil", "line"), BAD)
def test_what_cannot_be_fitted_is_one_line(name: str, spoil: Any, line: str) -> None:
    case = CASES[name]
    columns = spoil([column.copy() for column in case.columns])
    if name == "seconds" and "got 1" in line:
        pytest.skip("runs of one size are fitted over seconds, too")
    with pytest.raises(CannotFit, match=line) as caught:
        case.law(*columns, *case.more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokens", "extrapolation", "parameters", "seconds", "compute_gain"])
def test_losses_that_rise_are_no_decrease(name: str) -> None:
    case = CASES[name]
    with pytest.raises(CannotFit, match=r"losses do not fall with \w+: there is no decrease to fit"):
        case.law(*case.columns[:-1], 1 / case.columns[-1], *case.more)


@EVERY
@settings(deadline=None, max_examples=25, derandomize=True)
@given(data=st.data())
def test_any_numbers_are_fitted_or_refused(name: str, data: st.DataObject) -> None:
    """Neither another error, nor a warning of numpy, nor a number that is none."""
    case = CASES[name]
    rows = data.draw(st.integers(0, 9))
    numbers = st.floats(1e-6, 1e12) | st.integers(1, 9).map(float)
    columns = [data.draw(st.lists(numbers, min_size=rows, max_size=rows)) for _ in case.columns]
    if rows and data.draw(st.integers(0, 3)) == 0:
        spoiled = data.draw(st.sampled_from(columns))
        spoiled[data.draw(st.integers(0, rows - 1))] = data.draw(st.sampled_from([0.0, -1.0, np.nan, np.inf]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            law = case.law(*columns, *case.more)
        except CannotFit as error:
            refusal = str(error)
        else:
            refusal, report = "", law.report()
    assert "\n" not in refusal
    if not refusal:
        json.dumps(report, allow_nan=False)
        assert not np.isnan(law.values).any() and not np.isnan(law.draws).any()
