"""Tasks answered by likelihood: how questions are written, what is counted, a needle's place, and files that are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lm.config import ConfigError
from lm.problems import Arithmetic
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.evaluate.harness import write
from tasks.evaluate.inputs import inputs
from tasks.evaluate.likelihood import log_likelihoods
from tasks.evaluate.stage import EvaluateConfig, run
from tasks.evaluate.tasks import Choices, Needle
from tasks.evaluate.tasks.base import accuracy_metrics, label_of, pair, rows_of_items
from tests.evaluate.test_run import TOKENIZER, model_folder
from tests.lm.models import toy_model
from tests.project import TINY

ROWS: list[dict[str, Any]] = [
    {"question": "two and two", "choices": ["four", "five", "a"], "answer": 0},
    {"question": "the sky", "choices": ["green", "blue"], "answer": "blue", "id": "sky"},
    {"question": "first", "choices": ["b", "c"], "answer": "A"},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/tasks").mkdir(parents=True)
    put("data/tasks/facts.jsonl", ROWS)
    put("data/tasks/facts.shots.jsonl", [{"question": "up", "choices": ["down", "hill"], "answer": 1}, *ROWS])
    return tmp_path


def put(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def spelled(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def test_questions_are_written_in_the_template_behind_their_examples(here: Path) -> None:
    shape = toy_model().config
    plain = Choices(file="data/tasks/facts.jsonl").items(TOKENIZER, shape, Path("data"))
    assert [item.id for item in plain] == ["facts.jsonl:1", "sky", "facts.jsonl:3"]
    assert [item.right for item in plain] == [0, 1, 0] and plain[0].characters == [4, 4, 1]
    assert spelled(plain[0].asked.text) == "Question: two and two\nAnswer:" and plain[0].asked.shared == 0
    assert [spelled(ids) for ids in plain[0].asked.following] == [" four", " five", " a"]
    shown = Choices(file="data/tasks/facts.jsonl", shots=2, template="{question} is").items(
        TOKENIZER, shape, Path("data")
    )
    beginning = "up is hill\n\ntwo and two is four\n\n"
    assert spelled(shown[1].asked.text) == beginning + "the sky is"
    assert shown[1].asked.shared == len(TOKENIZER.encode(beginning))


def test_blanks_before_an_answer_are_the_answers() -> None:
    text, following = pair(TOKENIZER, "is: ", "so")
    assert (spelled(text), spelled(following)) == ("is:", " so")
    assert pair(TOKENIZER, "", "a") == ([TOKENIZER.eos_id], TOKENIZER.encode("a"))


def test_figures_by_hand() -> None:
    class Of:
        def __init__(self, right: int, characters: list[int], kind: str) -> None:
            self.id, self.right, self.characters, self.kind = "x", right, characters, kind

    items: Any = [Of(0, [4, 1], "a"), Of(1, [2, 4], "a"), Of(1, [1, 1], "b")]
    rows = rows_of_items(items, [[-4.0, -2.0], [-3.0, -4.0], [-1.0, -1.0]])
    # likeliest: the second, the first, the first of equals; by character: -1 and -2, -1.5 and -1, equals
    assert [row["chosen"] for row in rows] == [1, 0, 0] and [row["chosen_normalised"] for row in rows] == [0, 1, 0]
    found = accuracy_metrics("t", rows)
    assert found["t_accuracy"] == 0 and found["t_normalised_accuracy"] == pytest.approx(2 / 3)
    assert found["t_accuracy_low"] == 0 and 0.3 < found["t_accuracy_high"] < 0.6 and found["t_questions"] == 3
    assert {name for name in found if name.startswith("t_accuracy_") and name[-1] in "ab"} == {
        "t_accuracy_a",
        "t_accuracy_b",
    }


def test_a_needle_stands_at_its_depth_and_every_number_is_asked_for(here: Path) -> None:
    model_folder(here / "data")
    task = Needle(length=60, depths=3, tries=4)
    items = task.items(TOKENIZER, toy_model(context=64).config, here / "data")
    assert len(items) == 12 and {item.kind for item in items} == {"depth_0", "depth_50", "depth_100"}
    for item in items:
        text, numbers = spelled(item.asked.text), [spelled(ids) for ids in item.asked.following]
        assert len(set(numbers)) == 10 and len(item.asked.text) + max(map(len, item.asked.following)) == 60
        needle = f" The secret number is{numbers[item.right]}."
        assert text.count(needle) == 1 and text.endswith(" The secret number is")
        before = text.index(needle)
        after = len(text) - before - len(needle) - len(" The secret number is")
        assert {"depth_0": before == 0, "depth_50": abs(before - after) <= 3, "depth_100": after == 0}[item.kind]
    assert [item.asked for item in items] == [
        item.asked for item in task.items(TOKENIZER, toy_model(context=64).config, here / "data")
    ]
    with pytest.raises(ConfigError, match="30 tokens leave no room for text"):
        Needle(length=30).items(TOKENIZER, toy_model(context=64).config, here / "data")


def config(*tasks: Any) -> EvaluateConfig:
    return EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=2, max_new_tokens=4, tasks=list(tasks))


def test_the_stage_tells_each_task(here: Path) -> None:
    model = model_folder(here / "data")
    asked = config(Choices(file="data/tasks/facts.jsonl", shots=1), Needle(length=62, depths=2, tries=2))
    figures = run(asked, here / "data", Log(), "rl")
    rows = read_table(here / "data/evaluate/rl/facts.parquet").to_pylist()
    items = asked.tasks[0].items(TOKENIZER, model.config, here / "data")
    nats = log_likelihoods(model, [item.asked for item in items], lambda *told: None)
    assert [row["nats"] for row in rows] == nats
    assert figures["facts_accuracy"] == sum(row["chosen"] == row["right"] for row in rows) / 3
    assert (
        figures["needle_questions"] == 4 and {"needle_accuracy_depth_0", "needle_accuracy_depth_100"} <= figures.keys()
    )
    plain = run(config(), here / "data", Log(), "rl")
    assert {name: value for name, value in figures.items() if not name.startswith(("facts", "needle"))} == plain


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "choices": ["b"], "answer": 0}, r"facts.jsonl:1: needs a JSON object .*: `choices` is"),
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, r"facts.jsonl:1: `answer` 2 is none of the choices"),
        (
            {"question": " ", "choices": ["b", "c"], "answer": 0},
            r"facts.jsonl:1: needs a JSON object .*`question` is blank",
        ),
    ],
)
def test_a_line_that_is_no_question_is_named(here: Path, row: dict[str, Any], said: str) -> None:
    put("data/tasks/facts.jsonl", [row])
    with pytest.raises(ConfigError, match=said):
        Choices(file="data/tasks/facts.jsonl").items(TOKENIZER, toy_model().config, Path("data"))


def test_what_is_missing_is_found_before_anything_runs(here: Path) -> None:
    def said(*tasks: dict[str, Any]) -> list[str]:
        return [
            str(each) for each in inputs(Sections({**TINY, "evaluate": {**TINY["evaluate"], "tasks": list(tasks)}}))
        ]

    assert said({"name": "choices", "file": "data/tasks/facts.jsonl", "shots": 4}, {"name": "needle"}) == []
    (none,) = said({"name": "choices", "file": "data/tasks/none.jsonl"})
    assert none.startswith("params.yaml: evaluate.tasks.0: data/tasks/none.jsonl: no such file: put a JSON object")
    (few,) = said({"name": "choices", "file": "data/tasks/facts.jsonl", "shots": 5})
    assert "has 4 examples, evaluate.tasks asks for 5" in few


def test_a_file_elsewhere_and_two_tasks_of_one_name_are_refused(here: Path) -> None:
    with pytest.raises(ValidationError, match="which is in neither of data/tasks"):
        Choices(file="../facts.jsonl")
    with pytest.raises(ValidationError, match=r"template must have \{question\} once"):
        Choices(file="data/tasks/facts.jsonl", template="Answer:")
    with pytest.raises(ValidationError, match="two tasks would have the figures needle_accuracy"):
        config(Needle(), Needle(length=40))
    assert label_of("ARC-Easy 2") == "arc_easy_2"


def test_the_harness_gets_the_same_questions(here: Path) -> None:
    write(Choices(file="data/tasks/facts.jsonl", shots=2, template="Q: {question}?\nA:"), Path("harness"))
    task = yaml.safe_load(Path("harness/facts.yaml").read_text())
    assert task["doc_to_text"] == "Q: {{question}}?\nA:" and task["num_fewshot"] == 2
    assert task["dataset_kwargs"]["data_files"] == {"test": "facts.jsonl", "shots": "facts.shots.jsonl"}
    rows = [json.loads(line) for line in Path("harness/facts.jsonl").read_text().splitlines()]
    assert [row["right"] for row in rows] == [0, 1, 0] and rows[1]["choices"] == ["green", "blue"]
