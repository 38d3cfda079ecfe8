"""Which documents and answers are shown."""

import json
from pathlib import Path

import pytest

from tasks.report import examples
from tasks.report.drawing import graph, layers, reduced
from tasks.report.words import duration, number, size, truncate
from tasks.runner.json_lines import Lines, lines_of
from tests.report.tree import build


def test_reasons_take_turns() -> None:
    reasons = ["short"] * 10 + ["duplicate_of:a", "duplicate_of:b"] + ["rare"]
    chosen = examples.over_reasons(reasons, 5)
    assert [examples.kind(reasons[i]) for i in chosen] == ["short", "duplicate_of", "rare", "short", "duplicate_of"]
    assert len(set(chosen)) == 5
    assert examples.over_reasons([], 5) == []
    assert sorted(examples.over_reasons(["a", "b"], 5)) == [0, 1]


def test_rows_come_from_their_row_groups_in_the_order_asked(tmp_path: Path) -> None:
    folder = build(tmp_path) / "data" / "dedup"
    rows = examples.rows_at(folder / "documents", [30, 0, 7, 6])
    assert [r["id"] for r in rows] == ["d30", "d0", "d7", "d6"]


def test_five_of_each_and_the_quarantine_counts_as_dropped(tmp_path: Path) -> None:
    data = build(tmp_path) / "data"
    assert [e.name for e in examples.kept_documents(data / "dedup")] == ["d3", "d9", "d15", "d21", "d27"]
    dropped = examples.dropped_documents(data / "dedup")
    assert {examples.kind(e.reason) for e in dropped} == {"duplicate_of", "empty"}
    assert len(dropped) == 5
    assert all(len(e.text) == 401 for e in dropped)
    assert [e.reason for e in examples.dropped_documents(data / "ingest")] == ["truncated", "truncated"]
    assert examples.kept_documents(data / "pretrain") == examples.dropped_documents(data / "pretrain") == []


def test_right_and_wrong_answers(tmp_path: Path) -> None:
    verdicts = [a.verdict for a in examples.sample_answers(build(tmp_path) / "data" / "evaluate" / "rl")]
    assert verdicts[:4] == ["right"] * 4
    assert set(verdicts[4:]) <= {"wrong", "invalid"}
    assert len(verdicts) == 8


def test_the_last_samples_of_text(tmp_path: Path) -> None:
    data = build(tmp_path) / "data"
    step, texts = examples.samples(data / "pretrain")
    assert step == 40 and list(texts.values()) == ["upon 40"]
    assert examples.samples(data / "rl") is None


@pytest.mark.parametrize("text", ["one\x85two", "one\u2028two", "one\u2029two"])
def test_a_sample_with_a_line_separator_is_one_line(text: str, tmp_path: Path) -> None:
    lines = Lines(tmp_path / "samples.jsonl", resumes=False)
    for step in (10, 20):
        lines.add(step, {"texts": {"a": text}})
    lines.close()
    assert examples.samples(tmp_path) == (20, {"a": truncate(text)})
    again = Lines(tmp_path / "samples.jsonl", resumes=True)
    assert again.rewind(20) == [{"step": 10, "texts": {"a": text}}]
    again.add(20, {"texts": {"a": text}})
    again.close()
    assert [json.loads(line)["step"] for line in lines_of((tmp_path / "samples.jsonl").read_text("utf-8"))] == [10, 20]


def test_a_line_that_a_kill_cut_off_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2}\n{"step": 3, "text": "\u20ac'.encode()[:-1])
    assert Lines(path, resumes=True).rewind(9) == [{"step": 1}, {"step": 2}]
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert lines_of("") == [] and lines_of("\n") == [""] and lines_of("a\r\x85\nb") == ["a\r\x85", "b"]


def test_edges_implied_by_longer_ways_are_left_out() -> None:
    needs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["a"]}
    assert layers(needs) == [["a"], ["b", "d"], ["c"]]
    assert reduced(needs) == {"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}
    assert graph(needs, {"a": "1 s"}).count('class="edge"') == 3
    assert graph(needs, {"a": "1 s"}).count('class="box absent"') == 3


def test_numbers_as_people_read_them() -> None:
    assert [number(v) for v in (None, 0, 12345, 0.00012345, 1234.5, float("nan"))] == [
        "-",
        "0",
        "12,345",
        "0.0001234",
        "1,234",
        "nan",
    ]
    assert [size(v) for v in (None, 0, 999, 999_600, 4_321_000, 5e15)] == [
        "-",
        "0 B",
        "999 B",
        "1 MB",
        "4.32 MB",
        "5e+03 TB",
    ]
    assert [duration(v) for v in (None, 0.04, 119.9, 120, 7300, 172800)] == [
        "-",
        "0.0 s",
        "119.9 s",
        "2 min 00 s",
        "2 h 01 min",
        "2.0 days",
    ]
    assert truncate("a\tb\x00\x1b\u00a0c", 6) == "a\tb\ufffd\ufffd\u00a0\u2026"
