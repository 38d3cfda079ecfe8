"""Further problem sets: each its own problems, verifier, length, score and table, and nothing else is changed by them."""

import json
from pathlib import Path
from typing import Any

import pytest

from lm.config import ConfigError
from lm.intervals import wilson
from lm.problems import Arithmetic, Chains, Counting, Gsm8k, MultipleChoice, Sorting, WordProblems
from lm.problems.example import Example, Score
from tasks.about.sections import Sections
from tasks.core.config import load
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.evaluate.accuracy import Answer
from tasks.evaluate.inputs import inputs
from tasks.evaluate.sets import ProblemSet, set_metrics
from tasks.evaluate.stage import EvaluateConfig, run
from tasks.report.paired import compare_models, labels_of
from tasks.report.read import Stage
from tasks.report.render import page
from tasks.report.terminal import _of_sets
from tests.evaluate.test_run import Judge, model_folder
from tests.project import TINY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "data")
    rows = {
        "gsm": [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(40)],
        "choice": [{"question": f"Is {n} even", "choices": ["yes", "no"], "answer": n % 2} for n in range(40)],
    }
    for name, some in rows.items():
        (tmp_path / "data/problems" / name).mkdir(parents=True)
        (tmp_path / "data/problems" / name / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return tmp_path


def evaluated(*sets: ProblemSet) -> dict[str, float]:
    config = EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=6, max_new_tokens=6, sets=list(sets))
    return run(config, Path("data"), Log(), "rl")


def test_each_set_has_its_own_score_and_the_rest_stays_as_it_is(here: Path) -> None:
    plain = evaluated()
    there = {path.name: path.read_bytes() for path in Path("data/evaluate/rl").iterdir()}
    sets = [
        ProblemSet(problems=Gsm8k(folder="data/problems/gsm")),
        ProblemSet(problems=MultipleChoice(folder="data/problems/choice"), label="even", max_new_tokens=3),
        ProblemSet(problems=Chains(drawn=60)),
        ProblemSet(problems=Sorting(drawn=60)),
        ProblemSet(problems=Counting(drawn=60)),
        ProblemSet(problems=WordProblems(drawn=60), label="told"),
    ]
    more = evaluated(*sets)
    assert {name: more[name] for name in plain} == plain
    assert all(Path("data/evaluate/rl", name).read_bytes() == was for name, was in there.items())
    for one in sets:
        rows = read_table(Path(f"data/evaluate/rl/answers_{one.called}.parquet")).to_pylist()
        first = one.problems.examples("test")[:6]
        assert [(row["id"], row["prompt"], row["answer"]) for row in rows] == [
            (e.id, e.prompt, e.answer) for e in first
        ]
        scores = [one.problems.score(e, row["completion"]).value for e, row in zip(first, rows, strict=True)]
        assert [row["score"] for row in rows] == scores
        assert more[f"{one.called}_accuracy"] == sum(scores) / len(scores)
        assert more[f"{one.called}_problems"] == len(first) and more[f"{one.called}_invalid"] == 0
    longest = [
        max(len(row["completion"]) for row in read_table(Path(f"data/evaluate/rl/answers_{name}.parquet")).to_pylist())
        for name in ("gsm8k", "even")
    ]
    assert longest[0] > 3 >= longest[1] > 0, "a set's own length is heeded"
    assert len(more) == len(plain) + 5 * len(sets)


def test_what_has_no_verdict_is_counted_apart() -> None:
    answers = [Answer(Example(str(n), "", "", ""), "", Score(float(n < 2), valid=n < 3)) for n in range(5)]
    low, high = wilson(2, 3)
    assert set_metrics("a", answers) == {
        "a_accuracy": 2 / 3, "a_accuracy_low": low, "a_accuracy_high": high, "a_problems": 5, "a_invalid": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sets": [{"problems": {"name": "chains"}}] * 2}, "chains_accuracy would be of two sets or tasks"),
        (
            {"sets": [{"problems": {"name": "chains"}, "label": "needle"}], "tasks": [{"name": "needle"}]},
            "needle_accuracy would be of two sets or tasks",
        ),
        (
            {
                "sets": [{"problems": {"name": "chains"}}],
                "tasks": [{"name": "choices", "file": "data/tasks/answers-chains.jsonl"}],
            },
            "a task cannot be called 'answers_chains'",
        ),
        *(
            ({"tasks": [{"name": "choices", "file": f"data/tasks/{name}.jsonl"}]}, f"a task cannot be called {name!r}")
            for name in ("bits", "at_most_bits", "distributions")
        ),
        ({"sets": [{"problems": {"name": "gsm8k", "folder": "elsewhere"}}]}, "reads elsewhere, which is in neither of"),
        ({"sets": [{"problems": {"name": "chain"}}]}, "no method 'chain'; did you mean 'chains'"),
    ],
)
def test_what_cannot_stand_beside_each_other(settings: dict[str, Any], said: str) -> None:
    params = {**TINY, "evaluate": {"max_new_tokens": 32, "problems_counted": 4, **settings}}
    with pytest.raises(ConfigError, match=said):
        load("evaluate", EvaluateConfig, params)


def test_files_that_are_wrong_are_named_before_anything_runs(here: Path) -> None:
    def said(folder: str) -> list[str]:
        sets = [{"problems": {"name": "chains"}}, {"problems": {"name": "gsm8k", "folder": folder}}]
        return [str(each) for each in inputs(Sections({**TINY, "evaluate": {**TINY["evaluate"], "sets": sets}}))]

    assert said("data/problems/gsm") == []
    (wrong,) = said("data/problems/choice")
    assert wrong.startswith("params.yaml: evaluate.sets.1: data/problems/choice/a.jsonl:1: needs a JSON object")
    (none,) = said("data/problems/none")
    assert "holds no *.jsonl" in none


def test_models_are_compared_on_each_set(here: Path) -> None:
    sets = [ProblemSet(problems=Gsm8k(folder="data/problems/gsm"))]
    metrics = evaluated(*sets)
    assert labels_of(metrics) == ["gsm8k"]
    stages = [
        Stage(f"evaluate@{name}", [], Path("data/evaluate/rl"), current=True, metrics=metrics) for name in ("a", "b")
    ]
    found = compare_models(stages, {})
    assert list(found["b"].sets) == ["gsm8k"] and found["b"].sets["gsm8k"].includes_zero
    rows = _of_sets(stages, found)
    assert [row[:3] for row in rows[1:]] == [["a", "gsm8k", rows[1][2]], ["b", "gsm8k", rows[1][2]]]
    assert rows[2][-1].startswith("no difference") and rows[1][-1] == "-"
    assert "What else was asked" in page(here, stages)


def test_a_set_is_judged_by_its_own_verifier(here: Path) -> None:
    """Of ten problems four are right, three wrong, and three have no verdict, whatever the first set's verifier says."""
    one = ProblemSet(problems=Chains(), label="judged").model_copy(update={"problems": Judge(1.0)})
    config = EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=10, max_new_tokens=4)
    figures = run(config.model_copy(update={"sets": [one]}), Path("data"), Log(), "rl")
    assert (figures["judged_accuracy"], figures["judged_problems"], figures["judged_invalid"]) == (4 / 7, 10, 3)
