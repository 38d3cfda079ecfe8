"""What `make plan` says of its figures, held to the rows that measured them, and its answer for programs."""

import json
import re
import sys

import pytest

from benchmarks.rows import read
from benchmarks.table import newest
from flows.forecast import __main__ as plan
from flows.forecast.estimate import Forecast, Machine
from tasks.about.work import Lower, Work
from tests.lm.models import toy_model
from tests.lm.test_training import recipe
from tests.project import ROOT

HERE = Machine("this machine", False, 10**9, 1e12, 1e10)


def test_the_words_on_memory_are_those_of_the_newest_rows() -> None:
    """plan_accuracy has the forecast beside the peak of a stage, in the range of weights that the words name."""
    (percent,) = re.findall(r"within (\d+)% in pretraining", plan.assumptions(HERE))
    rows = [row for row in newest(read()) if row["bench"] == "plan_accuracy" and row["peer"]]
    apart = [abs(1 / row["ratio_median"] - 1) for row in rows]
    assert len(apart) >= 13 and 100 * max(apart) <= int(percent)


def test_the_answer_for_programs_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the line for people does, of the stages that do not fit; null of the others."""

    def told(work: object, machine: Machine) -> Forecast:
        fits = next(often)
        return Forecast(1, 1.0, 1.0, 2e9, 1.0, 0.0, 1, 1, fits, False, 1.0, 0.0)

    often = iter([False, *[True] * 50])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["plan", "--preset", "smoke", "--json"])
    monkeypatch.setattr(plan, "machine_of", lambda name: HERE)
    monkeypatch.setattr(plan, "forecast_of", told)
    assert plan.main() == 1
    out, err = capsys.readouterr()
    answer = json.loads(out)
    first, *others = answer["stages"]
    assert answer["fits"] is False and first["lower"] == err.strip() and "needs 2.0 GB" in first["lower"]
    assert others and all(other["lower"] is None for other in others)


@pytest.mark.parametrize(
    ("policy", "positions", "said"),
    [
        ("auto", 0, "recomputed"),
        ("auto", 1200, "1,200 positions"),
        ("none", 0, "a row, recompute: none"),
        ("whole", 1200, "1,200 positions, recompute: whole"),
        ("selective", 0, "a row, recompute: selective"),
    ],
)
def test_what_a_backward_holds_says_the_policy(policy: str, positions: int, said: str) -> None:
    work = Work(recipe(recompute=policy), toy_model().config, 1, 1.0, lambda: pytest.fail("made"), Lower("", ""))
    found = Forecast(1, 1.0, 1.0, 2e9, 1.0, 0.0, positions, 1, True, False, 1.0, 0.0)
    assert plan.row_of("sft", work, found)[plan.HEAD.index("a backward holds")] == said
