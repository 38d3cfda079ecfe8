"""Schedules: what every one of them must do, and sequences worked by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import median_filter

from lm import schedules
from lm.config import Config, methods_of
from lm.schedules import Cosine, Infinite, Linear, OneCycle, Power, Refined, Wsd
from lm.schedules.feedback import Feedback
from lm.schedules.norms import main, norms_of
from lm.schedules.one_cycle import against
from lm.schedules.refined import smoothed

# Those with feedback have tests/lm/test_feedback.py
EVERY = pytest.mark.parametrize(
    "method", [m for m in methods_of(schedules) if not issubclass(m, Feedback)], ids=lambda method: method.__name__
)
quick = settings(deadline=None, max_examples=25, derandomize=True)


@EVERY
@quick
@given(total=st.integers(1, 400), warmup=st.floats(0, 0.7), final=st.floats(0, 1))
def test_factors_rise_once_then_fall_to_the_final_one(
    method: type[Config], total: int, warmup: float, final: float
) -> None:
    schedule = method(warmup_fraction=warmup, final_fraction=final)
    factors = [schedule(step, total) for step in range(total + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(factor > 0 for factor in factors[:-1])
    peak = int(warmup * total)
    assert factors[peak] == pytest.approx(1)
    assert all(a < b for a, b in zip(factors[:peak], factors[1 : peak + 1], strict=True))
    # two factors that are equal may be sums of floats in other orders
    assert all(a >= b - 1e-12 for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert factors[-1] <= final + 1e-12  # equal, or that share of what the last decay began with


@EVERY
def test_no_jumps(method: type[Config]) -> None:
    # The steepest slope of 1,000 steps: 1 over a warm-up of 20 or more, 1 over a decay of 200, pi/2 over 980.
    factors = [method(warmup_fraction=0.02)(step, 1000) for step in range(1001)]
    assert max(abs(a - b) for a, b in zip(factors, factors[1:], strict=False)) < 1 / 20


@EVERY
def test_a_single_step_learns(method: type[Config]) -> None:
    assert method()(0, 1) == 1.0


def test_cosine_by_hand() -> None:
    # 10 steps, 2 of warm-up: thirds, then cos over eighths of pi between 1 and 0.2.
    schedule = Cosine(warmup_fraction=0.2, final_fraction=0.2)
    expected = [1 / 3, 2 / 3, *(0.2 + 0.4 * (1 + math.cos(math.pi * k / 8)) for k in range(9))]
    assert [schedule(step, 10) for step in range(11)] == pytest.approx(expected)
    assert schedule(6, 10) == pytest.approx(0.6)  # half way


def test_wsd_by_hand() -> None:
    schedule = Wsd(warmup_fraction=0.2, decay_fraction=0.4, final_fraction=0.0)
    expected = [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert [schedule(step, 10) for step in range(11)] == pytest.approx(expected)


def test_a_decay_ends_at_its_final_fraction() -> None:
    schedule = Wsd(warmup_fraction=0.0, decay_fraction=0.4, final_fraction=0.2)
    assert [schedule(step, 10) for step in (5, 6, 7, 8, 9, 10)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2])


def test_linear_by_hand() -> None:
    expected = [1 / 3, 2 / 3, *(0.2 + 0.8 * k / 8 for k in range(8, -1, -1))]
    assert [Linear(warmup_fraction=0.2, final_fraction=0.2)(step, 10) for step in range(11)] == pytest.approx(expected)


def test_power_by_hand() -> None:
    # a knee of 2 and the exponent 1/2: 1 until two updates after the warm-up, then sqrt(2 / n); 5 steps of decay at the end.
    schedule = Power(warmup_fraction=0.1, decay_fraction=0.5, knee_steps=2, exponent=0.5)
    expected = [
        1 / 2,
        1,
        1,
        1,
        *(math.sqrt(2 / n) for n in (3, 4)),
        *(math.sqrt(2 / n) * (1 - (n - 4) / 5) for n in range(5, 10)),
    ]
    assert [schedule(step, 10) for step in range(11)] == pytest.approx(expected)


def test_power_does_not_know_the_total_before_its_decay() -> None:
    schedule = Power(warmup_fraction=0.0)
    assert [schedule(step, 1000) for step in range(500)] == [schedule(step, 5000) for step in range(500)]


def test_infinite_by_hand() -> None:
    # peak at step 1, down half a cosine over 4 updates to 0.4, which stays until 2 steps before the end.
    schedule = Infinite(warmup_fraction=0.1, cooldown_steps=4, constant_fraction=0.4, decay_fraction=0.2)
    cosine = [0.4 + 0.3 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert [schedule(step, 10) for step in range(11)] == pytest.approx([1 / 2, *cosine, 0.4, 0.4, 0.4, 0.4, 0.2, 0])


def test_one_cycle_by_hand() -> None:
    # up from 0.1 by thirds of 0.9 over steps 0 and 1, peak at 2, down to 0.1 at 8, to a tenth of that at 10.
    schedule = OneCycle(warmup_fraction=0.2, initial_fraction=0.1, anneal_fraction=0.25, final_fraction=0.1)
    expected = [0.4, 0.7, *(1 - 0.15 * k for k in range(7)), 0.055, 0.01]
    assert [schedule(step, 10) for step in range(11)] == pytest.approx(expected)


def test_momentum_goes_against_the_rate_of_one_cycle() -> None:
    # as above: rates 0.4, 0.7, 1, then down by 0.15 to 0.1, and a tenth of it: 0.95 - 0.1 x (rate - 0.1) / 0.9, 0.95 in the anneal.
    schedule = OneCycle(warmup_fraction=0.2, initial_fraction=0.1, anneal_fraction=0.25, peak_momentum=0.85)
    rates = [0.4, 0.7, *(1 - 0.15 * k for k in range(7)), 0.1, 0.1]
    expected = [0.95 - 0.1 * (rate - 0.1) / 0.9 for rate in rates]
    assert [schedule.momentum(step, 10, 0.95) for step in range(11)] == pytest.approx(expected)
    assert min(expected) == pytest.approx(0.85) and OneCycle().momentum(3, 10, 0.9) == 0.9
    level = OneCycle(initial_fraction=1.0, peak_momentum=0.85)
    assert [level.momentum(step, 10, 0.95) for step in range(10)] == [0.95] * 10


def test_one_cycle_goes_as_that_of_torch() -> None:
    """Rates and momenta, between its corners, which torch has at other steps."""
    total, weight = 101, torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.95)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total, pct_start=0.3, anneal_strategy="linear", three_phase=True,
        base_momentum=0.85, max_momentum=0.95, div_factor=10, final_div_factor=100,
    )  # fmt: skip
    found = []
    for _ in range(total):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        theirs.step() if len(found) < total else None
    # up over 29 steps and down over as many, in which both go by equal parts
    for rate, momentum in found:
        own = against(rate, 0.1, 0.95, 0.85)
        assert own == pytest.approx(momentum)


def test_wsd_refuses_a_decay_that_begins_before_the_warmup_ends() -> None:
    with pytest.raises(ValidationError, match="at most 1"):
        Wsd(warmup_fraction=0.5, decay_fraction=0.6)


def test_refined_by_constant_norms_is_a_straight_line() -> None:
    for norms in ([1.0], [3.0] * 7):
        assert [Refined(norms=norms)(step, 10) for step in range(11)] == pytest.approx([1 - k / 10 for k in range(11)])


def test_refined_by_hand() -> None:
    # norms 2, 1, 1 at steps 0, 1, 2 of 2, the last of which is not made: w = 1/4, 1, 1, and w times all later w is 1/2, 1, 0. With
    # the exponent 1, w = 1/2, 1, 1 and 1, 1, 0. Of 4 steps the norms are 2, 1.5, 1, 1, 1, so w = 1/4, 4/9, 1, 1, 1 and
    # 1/4 (31/9), 4/9 (3), 2, 1, 0, over 2.
    schedule = Refined(norms=[2.0, 1.0, 1.0], smoothing=0.0)
    assert [schedule(step, 2) for step in range(3)] == pytest.approx([0.5, 1, 0])
    assert [schedule(step, 4) for step in range(5)] == pytest.approx([31 / 72, 2 / 3, 1, 0.5, 0])
    slower = Refined(norms=[2.0, 1.0, 1.0], smoothing=0.0, exponent=1.0)
    assert [slower(step, 2) for step in range(3)] == pytest.approx([1, 1, 0])
    after = Refined(norms=[2.0, 1.0, 1.0], smoothing=0.0, warmup_fraction=0.5, final_fraction=0.2)
    assert [after(step, 4) for step in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 0.6, 0.2])


@quick
@given(
    norms=st.lists(st.floats(0.01, 100), min_size=1, max_size=40), total=st.integers(1, 60), scale=st.floats(0.1, 10)
)
def test_refined_knows_ratios_of_norms_alone(norms: list[float], total: int, scale: float) -> None:
    found, scaled = (
        [Refined(norms=[norm * factor for norm in norms])(step, total) for step in range(total + 1)]
        for factor in (1.0, scale)
    )
    assert scaled == pytest.approx(found)
    assert max(found) == pytest.approx(1) and found[-1] == 0 and min(found[:-1]) > 0


@quick
@given(norms=st.lists(st.floats(0.01, 100), min_size=4, max_size=60), share=st.floats(0, 0.3))
def test_norms_are_smoothed_as_the_authors_do(norms: list[float], share: float) -> None:
    """By scipy's filter, with the padding that stands in the README of their code."""
    width = 2 * (int(share * len(norms)) // 2) + 1
    pad = 2 * width if 2 * width < len(norms) else width // 2
    wide = np.pad(norms, (0, pad), mode="reflect")
    expected = median_filter(wide, size=width, mode="nearest")[: len(norms)]
    assert smoothed(norms, share).tolist() == pytest.approx(expected.tolist())


def test_one_spike_changes_no_schedule() -> None:
    norms = [1.0] * 50
    norms[20] = 100.0
    assert [Refined(norms=norms)(step, 50) for step in range(51)] == [Refined()(step, 50) for step in range(51)]


def test_norms_come_out_of_a_runs_curves(tmp_path: Path) -> None:
    curves = tmp_path / "curves.jsonl"
    curves.write_text("".join(json.dumps({"step": k, "gradient_norm": k + 1.0}) + "\n" for k in range(10)))
    assert norms_of(curves, 5) == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert norms_of(curves) == [k + 1.0 for k in range(10)]
    curves.write_text('{"step": 0, "loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"curves\.jsonl: no line has a gradient_norm: give the curves"):
        norms_of(curves)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "curves.jsonl: No such file or directory"),
        ("", "curves.jsonl: no line has a gradient_norm: give the curves.jsonl of a training stage"),
        ('{"gradient_norm": 1.0}\n{"gradient', "curves.jsonl: line 2 is no figures of a step: give the curves.jsonl of a training stage"),
        ("[1.0]\n", "curves.jsonl: line 1 is no figures of a step: give the curves.jsonl of a training stage"),
        ('{"gradient_norm": null}\n', "curves.jsonl: line 1: gradient_norm: None is no finite number"),
        ('{"gradient_norm": 1.0}\n{"gradient_norm": NaN}\n', "curves.jsonl: line 2: gradient_norm: nan is no finite number"),
        (b"\xff\xfe", "curves.jsonl: no text: give the curves.jsonl of a training stage"),
    ],
)  # fmt: skip
def test_curves_without_norms_are_one_line(
    text: str | bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = tmp_path / "curves.jsonl"
    if text is not None:
        curves.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([str(curves)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"{tmp_path}/{said}\n" and printed.out == ""


def test_norms_are_asked_for_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.jsonl").write_text('{"step": 0, "gradient_norm": 2.5}\n')
    assert main([str(tmp_path / "curves.jsonl")]) == 0 and capsys.readouterr().out == "norms: [2.5]\n"
    assert main([str(tmp_path)]) == 2 and capsys.readouterr().err == f"{tmp_path}: Is a directory\n"
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "the following arguments are required: CURVES" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("norms", "said"), [([], "at least 1"), ([1.0, 0.0], r"norms must be positive, and one is 0\.0")]
)
def test_norms_that_no_run_has_are_refused(norms: list[float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Refined(norms=norms)
