"""Laws over a study's result: the columns that each takes of it, and one line where it cannot be fitted."""

from contextlib import suppress
from typing import Any

import pytest

from flows.arena import fits
from flows.arena.fit_law import LAWS, WARM_UP, beside_baseline, fit_law, in_words
from flows.arena.fits.law import CannotFit
from flows.arena.result import Provenance, result_of
from lm.config import methods_of
from tests.flows.arena.races import losses, raced, study


def result(losses: dict[int, float]) -> dict:
    """A study whose arms are lengths of training, by their tokens."""
    arms = []
    for tokens, loss in losses.items():
        curve = [[float(t), t / 100, 1.5 + 40 / t**0.5] for t in range(tokens // 20, tokens + 1, tokens // 20)]
        run = {
            "value": loss, "tokens": tokens, "flop": 6e5 * tokens, "seconds": tokens / 100, "parameters": 1e5, "layers": 4,
            "tokens_a_step": 100, "copies": 1e5, "decays_from": 0.0,
            "curve": curve, "to_target": None,
        }  # fmt: skip
        arms.append({"name": f"{tokens}", "runs": [run]})
    return {"baseline": "1000", "arms": arms}


LENGTHS = {tokens: 1.5 + 40 / tokens**0.5 for tokens in (1000, 2000, 4000, 8000, 16000)}


def test_every_law_of_the_room_can_be_asked_for() -> None:
    assert set(LAWS) == {method.model_fields["name"].default for method in methods_of(fits)}


def test_the_law_of_the_runs_is_found() -> None:
    found = fit_law("tokens", result(LENGTHS))["fits"]["all arms"]["parameters"]
    assert found["E"]["value"] == pytest.approx(1.5, rel=1e-3) and found["a"]["value"] == pytest.approx(0.5, rel=1e-3)


def test_the_law_of_each_curve_is_found_and_two_alike_gain_nothing() -> None:
    ahead = fit_law("extrapolation", result(LENGTHS))["fits"]
    assert set(ahead) == {str(tokens) for tokens in LENGTHS}
    assert ahead["1000"]["loss"] == pytest.approx(1.5 + 40 / 4000**0.5, rel=1e-2)
    gains = fit_law("compute_gain", result(LENGTHS))["fits"]
    assert gains["2000"]["parameters"]["gain"]["value"] == pytest.approx(1, rel=0.02)


def decaying(starts: dict[str, float]) -> dict:
    """The study of LENGTHS, in which these arms' losses are halved by a rate that decays after so many tokens."""
    of = result(LENGTHS)
    for arm in of["arms"]:
        for run in arm["runs"] if arm["name"] in starts else []:
            run["decays_from"] = start = starts[arm["name"]]
            run["curve"] = [[t, s, loss if t <= start else loss / 2] for t, s, loss in run["curve"]]
    return of


def test_of_a_curve_and_of_a_gain_counts_what_came_before_the_decay() -> None:
    of = decaying({"16000": 12000.0})
    ahead = fit_law("extrapolation", of)["fits"]["16000"]
    assert (
        ahead["target_tokens"] == 48000 and ahead["points"] == 14
    )  # of 20, without the tenth of warm-up and the decay
    assert ahead["loss"] == pytest.approx(1.5 + 40 / 48000**0.5, rel=1e-2)
    gain = fit_law("compute_gain", of)["fits"]["16000"]
    assert gain["parameters"]["gain"]["value"] == pytest.approx(1, rel=0.02) and gain["flop"] == 6e5 * 12000


@pytest.mark.parametrize("start", [400.0, 1600.0, 3200.0])  # within the warm-up, at its end, and three points behind it
def test_a_rate_that_decays_from_the_beginning_leaves_nothing_to_fit(start: float) -> None:
    of = decaying({"16000": start})
    left = {400.0: 0, 1600.0: 1, 3200.0: 3}[start]
    said = fit_law("extrapolation", of)["fits"]["16000"]["cannot"]
    assert (
        said
        == f"needs 4 or more different tokens: got {left} (before a rate decays, the first from {start:,.0f} tokens on)"
    )
    assert (
        f"arm: needs 4 or more different flop: got {left} (" in fit_law("compute_gain", of)["fits"]["16000"]["cannot"]
    )


@pytest.mark.parametrize("name", ["1000", "2000"])
def test_no_gain_is_told_where_the_flop_of_a_model_that_grows_are_not_there(name: str) -> None:
    """They are no share of its tokens, and results of before have no others."""
    of = result(LENGTHS)
    for arm in of["arms"]:
        for run in arm["runs"] if arm["name"] == name else []:
            run["grows"] = True
    fits_ = fit_law("compute_gain", of)["fits"]
    refused = {
        case
        for case, found in fits_.items()
        if "grows, and this result has no FLOP along its curve" in found.get("cannot", "")
    }
    assert refused == (set(fits_) if name == "1000" else {"2000"})


def test_the_gain_of_a_model_that_grows_is_by_the_flop_of_its_curve() -> None:
    """An arm that half of its FLOP would do for: the same curve, at half the FLOP of each point, whatever its tokens."""
    of, grown = result(LENGTHS), result(LENGTHS)
    for arm in grown["arms"]:
        for run in arm["runs"] if arm["name"] == "2000" else []:
            run.update(grows=True, flops=[0.5 * tokens / run["tokens"] * run["flop"] for tokens, *_ in run["curve"]])
    seen = [list(beside_points(each, "2000")) for each in (of, grown)]
    assert seen[1] == pytest.approx([0.5 * flop for flop in seen[0]]) and len(seen[0]) > 3


def beside_points(of: dict[str, Any], name: str) -> list[float]:
    """FLOP of the points that a law of gains is given of an arm."""
    given: dict[str, Any] = {}

    def law(*columns: Any) -> Any:
        given["flop"] = columns[2]
        raise CannotFit("enough")

    for case, fit in beside_baseline(law, of):
        if case == name:
            with suppress(CannotFit):
                fit()
    return list(given["flop"])


def test_the_warm_up_is_what_an_extrapolation_leaves_out() -> None:
    assert fits.Extrapolation.model_fields["skip_fraction"].default == WARM_UP


def test_a_run_of_a_result_says_where_its_rate_decays() -> None:
    asked = study()
    of = result_of(asked, raced(asked, losses({}, 0.01)), Provenance("a", "b", "c", "d", 1, 1, "e"))
    assert {run["decays_from"] for arm in of["arms"] for run in arm["runs"]} == {700.0}
    assert fit_law("extrapolation", of)["fits"]["adamw"]["points"] == 7


@pytest.mark.parametrize("law", sorted(LAWS))
def test_what_cannot_be_fitted_is_one_line(law: str) -> None:
    said = fit_law(law, result({1000: 2.0}))
    lines = in_words(said)
    assert all("\n" not in line for line in lines)
    if law not in ("extrapolation", "compute_gain"):
        assert "cannot" in said["fits"]["all arms"]


@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize(
    "lost", [["2000"], ["1000"], [str(tokens) for tokens in LENGTHS]], ids=["arm", "baseline", "all"]
)
def test_an_arm_whose_runs_all_diverged_is_said_in_one_line(law: str, lost: list[str]) -> None:
    of = result(LENGTHS)
    for arm in of["arms"]:
        for run in arm["runs"] if arm["name"] in lost else []:
            run.update(value=None, curve=[], flop=0.0, tokens=0)
    said = fit_law(law, of)
    assert all("\n" not in line for line in in_words(said))
    if law == "compute_gain":
        side = "baseline" if "1000" in lost else "arm"
        assert said["fits"]["2000"]["cannot"] == f"{side}: needs 4 or more different flop: got 0"
