"""Which rollouts, problems and answers the report shows, and what it says of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.report.read import read_stages
from tasks.report.render import page
from tasks.report.rollouts import rollouts, select_groups
from tasks.rl.ledger import OWN, SCHEMA
from tests.lm.models import toy_tokenizer
from tests.report.tree import HOSTILE, build

TOKENIZER = toy_tokenizer()


def row(number: int, problem: int, sample: int, reward: float | None, text: str, **more: Any) -> dict[str, Any]:
    ids = [*TOKENIZER.encode(text), TOKENIZER.end_id]
    return {
        "rollout": number, "policy": 2 * number, "problem": f"p{problem}", "level": "easy", "sample": sample,
        "prompt_ids": TOKENIZER.chat(f"question {problem} {HOSTILE}"), "ids": ids, "logps": [-0.5] * len(ids), "finished": True,
        "score": reward, "reward": reward, "advantage": None if reward is None else reward - 0.5, "learned": reward is not None,
        "reward_correct": reward, "reward_format": 0.25, **more,
    }  # fmt: skip


def write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    TOKENIZER.save(folder)
    parts = [pa.field(name, pa.float32()) for name in ("reward_correct", "reward_format")]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([*schema, *parts])), folder / "rollouts.parquet")
    return folder


def test_six_rollouts_with_the_first_and_the_last(tmp_path: Path) -> None:
    rows = [row(number, 0, sample, float(sample), "x") for number in range(23) for sample in range(2)]
    found = rollouts(write(tmp_path, rows))
    assert [each.number for each in found] == [0, 4, 9, 13, 18, 22] and found[1].updates == 8
    assert [each.number for each in rollouts(write(tmp_path, rows[:4]))] == [0, 1]
    assert rollouts(tmp_path / "nowhere") == [] == rollouts(write(tmp_path, []))


def test_what_is_said_of_a_rollout_by_hand(tmp_path: Path) -> None:
    """Two problems: to one all answers earned the same, one answer to the other has no verdict."""
    rows = [
        row(0, 0, 0, 1.0, "a"),
        row(0, 0, 1, 1.0, "b"),
        row(0, 1, 0, 0.0, "ccc"),
        row(0, 1, 1, None, "d", logps=[-1.5, -1.5]),
    ]
    rows += [row(0, 2, 0, 0.0, "e"), row(0, 2, 1, 1.0, "f", finished=False)]
    [found] = rollouts(write(tmp_path, rows))
    tokens = [len(each["ids"]) for each in rows]
    nats = [-logp for each in rows for logp in each["logps"]]
    assert found.reward == pytest.approx(3 / 5) and found.equal == pytest.approx(2 / 3)
    assert found.tokens == pytest.approx(sum(tokens) / 6) and found.entropy == pytest.approx(sum(nats) / len(nats))
    first, second, third = found.groups
    assert [sample.text for sample in third.samples] == ["f", "e"] and not third.samples[0].finished
    assert [sample.reward for sample in second.samples] == [0.0, None]
    assert second.samples[1].advantage is None and not second.samples[1].learned
    assert first.prompt.startswith("question 0") and first.samples[0].parts == {"correct": 1.0, "format": 0.25}


def test_what_an_environment_wrote_is_shown_and_not_counted(tmp_path: Path) -> None:
    given = row(0, 0, 0, 1.0, "<<1+1>>[[2]]")
    own = [True] * 7 + [False] * (len(given["ids"]) - 7)
    logps = [-1.0 if mine else 0.0 for mine in own]
    [found] = rollouts(write(tmp_path, [{**given, "own": own, "logps": logps}], pa.schema([*SCHEMA, OWN])))
    assert found.tokens == 7 and found.entropy == 1.0
    assert found.groups[0].samples[0].text == "<<1+1>>[[2]]" and found.groups[0].samples[0].tokens == 7


def test_the_problem_that_divides_answers_and_the_best_and_the_worst_of_those_that_do_not() -> None:
    groups = [[row(0, p, s, reward, "x") for s, reward in enumerate(pair)] for p, pair in enumerate(PAIRS)]
    assert [group[0]["problem"] for group in select_groups(groups)] == ["p1", "p3", "p4"]
    assert [group[0]["problem"] for group in select_groups(groups[:2])] == ["p0", "p1"]


PAIRS = [(0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)]


def test_the_page_shows_them_and_no_text_breaks_it(tmp_path: Path) -> None:
    root = build(tmp_path)
    write(root / "data" / "rl", [row(0, 0, s, float(s), f"say {HOSTILE}", advantage=s - 0.5) for s in range(2)])
    text = page(root, read_stages(root))
    assert (
        "rollout 0, after 0 updates: mean reward 0.5" in text and "advantage +0.5" in text and "advantage -0.5" in text
    )
    assert "<script>" not in text and "correct 1" in text
