"""Accuracy against tokens spent: what the stage writes of each strategy, and nothing where none is asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.config import ConfigError
from lm.intervals import wilson
from lm.problems import Arithmetic
from lm.problems.example import Example, Score
from lm.strategies import Beam, BestOf, BudgetForcing, Greedy, Majority, Sample, Speculative
from tasks.about.sections import Sections
from tasks.core.config import load
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.evaluate.coverage import sampled_scores
from tasks.evaluate.decoding import curve_metrics, decode_all, point_of
from tasks.evaluate.inputs import inputs
from tasks.evaluate.stage import EvaluateConfig, run
from tests.evaluate.test_run import TOKENIZER, Judge, Last, answers, decided, model_folder
from tests.project import TINY

STRATEGIES = [Greedy(), Sample(), BestOf(samples=4), Majority(samples=4), Beam(beams=2), BudgetForcing(minimum=4)]


def evaluated(data: Path, problems: Any, **settings: Any) -> dict[str, float]:
    config = EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=10, max_new_tokens=6, **settings)
    return run(config.model_copy(update={"problems": problems}), data, Log(), "rl")


def test_without_a_strategy_nothing_is_told_of_any(tmp_path: Path) -> None:
    model_folder(tmp_path)
    plain = evaluated(tmp_path, Judge(0.0))
    assert not [name for name in plain if "decoding" in name]
    there = {path.name: path.read_bytes() for path in (tmp_path / "evaluate/rl").iterdir()}
    assert there.keys() == {"bits.parquet", "answers.parquet", "distributions.parquet"}
    more = evaluated(tmp_path, Judge(0.0), decoding=STRATEGIES)
    assert {name: more[name] for name in plain} == plain
    assert all((tmp_path / "evaluate/rl" / name).read_bytes() == was for name, was in there.items())
    assert len(more) == len(plain) + 5 * len(STRATEGIES)


def test_a_row_for_each_strategy_and_each_answer(tmp_path: Path) -> None:
    model_folder(tmp_path)
    figures = evaluated(tmp_path, Last(0.0), decoding=STRATEGIES, samples=4)
    curve = {row["strategy"]: row for row in read_table(tmp_path / "evaluate/rl/decoding.parquet").to_pylist()}
    assert list(curve) == ["greedy", "sample", "best_of_4", "majority_4", "beam_2", "budget_forcing_4"]
    every = read_table(tmp_path / "evaluate/rl/decoded.parquet").to_pylist()
    assert len(every) == 10 * len(STRATEGIES)
    for name, row in curve.items():
        own = [each for each in every if each["strategy"] == name]
        assert [each["id"] for each in own] == [str(n) for n in range(10)]
        assert row["accuracy"] == sum(each["score"] for each in own) / 10
        assert (row["accuracy_low"], row["accuracy_high"]) == wilson(sum(each["score"] for each in own), 10)
        assert row["tokens"] == sum(each["tokens"] for each in own) / 10 and (row["problems"], row["invalid"]) == (
            10,
            0,
        )
        for figure in ("accuracy", "accuracy_low", "accuracy_high", "tokens", "passes"):
            assert figures[f"decoding_{name}_{figure}"] == row[figure]
    # greedy answers are those of the stage, one token a pass; the verifier's choice of so many is their pass@N
    assert figures["decoding_greedy_accuracy"] == figures["accuracy"]
    assert [each["completion"] for each in every[:10]] == [each["completion"] for each in answers(tmp_path)]
    assert curve["greedy"]["tokens"] == curve["greedy"]["passes"]
    assert figures["decoding_best_of_4_accuracy"] == figures["pass_at_n"] > figures["decoding_sample_accuracy"]
    assert curve["best_of_4"]["tokens"] == curve["majority_4"]["tokens"] > 3 * curve["best_of_4"]["passes"]


def test_what_has_no_verdict_spends_tokens_and_is_neither_right_nor_wrong() -> None:
    rows = [
        {"strategy": "a", "score": score, "valid": valid, "tokens": tokens, "passes": 1}
        for score, valid, tokens in ((1.0, True, 4), (0.0, True, 6), (1.0, False, 20))
    ]
    point = point_of(rows)
    assert (point["accuracy"], point["tokens"], point["problems"], point["invalid"]) == (0.5, 10.0, 3, 1)
    assert (point["accuracy_low"], point["accuracy_high"]) == wilson(1, 2)
    assert curve_metrics([point])["decoding_a_tokens"] == 10.0
    nothing = point_of(rows[2:])
    assert [nothing[name] for name in ("accuracy", "accuracy_low", "accuracy_high")] == [0, 0, 1]


def test_an_answer_without_a_verdict_is_not_the_best() -> None:
    """Of ten problems three have none: their first sample stands."""
    examples = Judge(1.0).examples("test")
    model = decided()
    best = decode_all(BestOf(samples=3), model, TOKENIZER, Judge(1.0), examples, 6)
    first = decode_all(Sample(), model, TOKENIZER, Judge(1.0), examples, 6)
    assert [row["completion"] for row in best[7:]] == [row["completion"] for row in first[7:]]
    assert [row["valid"] for row in best] == [True] * 7 + [False] * 3


class Own(Judge):
    """Right by the length of an answer and the number of its problem; of every third length no verdict, whose value must not
    matter."""

    def score(self, example: Example, text: str) -> Score:
        length = len(text)
        return Score(1.0, valid=False) if length % 3 == 0 else Score(float((length + int(example.id)) % 2))


def test_the_best_is_that_of_its_own_problem_among_those_that_have_a_verdict() -> None:
    model, judge = decided(), Own(0.0)
    examples = judge.examples("test")
    tried = sampled_scores(model, TOKENIZER, judge, examples, 6, 12, 1.0, lambda *_: None)
    best = decode_all(BestOf(samples=6), model, TOKENIZER, judge, examples, 12)
    told = 0
    for row, scores in zip(best, tried, strict=True):
        known = [score.value for score in scores if score.valid]
        assert row["valid"] == bool(known) and (not known or row["score"] == max(known))
        told += 0 < len(known) < 6 and max(known) == 0
    assert told and len({row["score"] for row in best if row["valid"]}) == 2


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.metric_label)
def test_a_row_depends_on_its_problem_alone(strategy: Any) -> None:
    model = decided()
    examples = [Example(str(n), f"{n}+{n * n}=", "", "") for n in range(1, 9)]
    long = Example("long", "x" * model.config.context, "", "")
    whole = decode_all(strategy, model, TOKENIZER, Last(0.0), [*examples, long], 6)
    few = decode_all(strategy, model, TOKENIZER, Last(0.0), [long, examples[5], examples[2]], 6)
    assert few == [whole[8], whole[5], whole[2]] and not torch.is_inference_mode_enabled()
    assert (whole[8]["completion"], whole[8]["tokens"], whole[8]["passes"]) == ("", 0, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"decoding": [{"name": "greedy"}, {"name": "greedy"}]},
            "two strategies are called greedy: give one another `label`",
        ),
        (
            {"decoding": [{"name": "beam", "beams": 2}, {"name": "sample", "label": "beam_2"}]},
            "two strategies are called beam_2",
        ),
        ({"decoding": [{"name": "budget_forcing", "maximum": 33}]}, "maximum 33 leaves no room in max_new_tokens, 32"),
        ({"decoding": [{"name": "beem"}]}, r"evaluate\.decoding\.0\.name: no method 'beem'; did you mean 'beam'"),
        ({"tasks": [{"name": "choices", "file": "data/tasks/decoded.jsonl"}]}, "a task cannot be called 'decoded'"),
        (
            {
                "tasks": [{"name": "choices", "file": "data/tasks/decoding_beam_4.jsonl"}],
                "decoding": [{"name": "beam"}],
            },
            "a task cannot be called 'decoding_beam_4', which a strategy is",
        ),
    ],
)
def test_what_cannot_stand_beside_each_other(settings: dict[str, Any], said: str) -> None:
    params = {**TINY, "evaluate": {"max_new_tokens": 32, "problems_counted": 4, **settings}}
    with pytest.raises(ConfigError, match=said):
        load("evaluate", EvaluateConfig, params)


def test_assistants_that_are_not_there_are_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [{"name": "greedy"}, {"name": "speculative", "draft": "small"}]
    sections = Sections({**TINY, "evaluate": {**TINY["evaluate"], "decoding": asked}})
    (found,) = inputs(sections)
    assert str(found).startswith("params.yaml: evaluate.decoding.1") and "data/assistants/small" in str(found)
    (tmp_path / "data/assistants/small").mkdir(parents=True)
    (tmp_path / "data/assistants/small/config.json").write_text("{}")
    assert list(inputs(sections)) == []


def test_a_draft_saves_passes_and_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "data")
    (tmp_path / "data/assistants").mkdir()
    (tmp_path / "data/rl").rename(tmp_path / "data/assistants/itself")
    (tmp_path / "data/rl").symlink_to("assistants/itself")
    monkeypatch.chdir(tmp_path)
    figures = evaluated(Path("data"), Last(0.0), decoding=[Greedy(), Speculative(draft="itself")])
    assert figures["decoding_speculative_accuracy"] == figures["decoding_greedy_accuracy"]
    assert figures["decoding_speculative_passes"] < figures["decoding_greedy_passes"]
