"""Laws over a study's result: the columns that each takes of it, and one line where it cannot be fitted."""

import pytest

from flows.arena import fits
from flows.arena.fitted import LAWS, fitted, in_words
from lm.config import methods_of


def result(losses: dict[int, float]) -> dict:
    """A study whose arms are lengths of training, by their tokens."""
    arms = []
    for tokens, loss in losses.items():
        curve = [[float(t), t / 100, 1.5 + 40 / t**0.5] for t in range(tokens // 20, tokens + 1, tokens // 20)]
        run = {
            "value": loss, "tokens": tokens, "flop": 6e5 * tokens, "seconds": tokens / 100, "parameters": 1e5, "layers": 4,
            "tokens_a_step": 100, "copies": 1e5, "curve": curve, "to_target": None,
        }  # fmt: skip
        arms.append({"name": f"{tokens}", "runs": [run]})
    return {"baseline": "1000", "arms": arms}


LENGTHS = {tokens: 1.5 + 40 / tokens**0.5 for tokens in (1000, 2000, 4000, 8000, 16000)}


def test_every_law_of_the_room_can_be_asked_for() -> None:
    assert set(LAWS) == {method.model_fields["name"].default for method in methods_of(fits)}


def test_the_law_of_the_runs_is_found() -> None:
    found = fitted("tokens", result(LENGTHS))["fits"]["all arms"]["parameters"]
    assert found["E"]["value"] == pytest.approx(1.5, rel=1e-3) and found["a"]["value"] == pytest.approx(0.5, rel=1e-3)


def test_the_law_of_each_curve_is_found_and_two_alike_gain_nothing() -> None:
    ahead = fitted("extrapolation", result(LENGTHS))["fits"]
    assert set(ahead) == {str(tokens) for tokens in LENGTHS}
    assert ahead["1000"]["loss"] == pytest.approx(1.5 + 40 / 4000**0.5, rel=1e-2)
    gains = fitted("compute_gain", result(LENGTHS))["fits"]
    assert gains["2000"]["parameters"]["gain"]["value"] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_what_cannot_be_fitted_is_one_line(law: str) -> None:
    said = fitted(law, result({1000: 2.0}))
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
    said = fitted(law, of)
    assert all("\n" not in line for line in in_words(said))
    if law == "compute_gain":
        side = "baseline" if "1000" in lost else "arm"
        assert said["fits"]["2000"]["cannot"] == f"{side}: needs 4 or more different flop: got 0"
