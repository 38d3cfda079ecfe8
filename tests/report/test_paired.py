"""Each model beside the one it began with: whom it is compared with, on what, and where that is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.report.paired import ModelComparison, compare_models, format_bits, format_nats, format_points, scores_of
from tasks.report.read import Stage, read_stages
from tasks.report.render import render
from tasks.report.terminal import stage_results, table
from tests.report.tree import build


def put(root: Path, model: str, right: range, spent: float, invalid: int = 0) -> Stage:
    """The evaluation of a model: 100 problems, of which it answers these, and 20 documents."""
    folder = root / model
    folder.mkdir(parents=True, exist_ok=True)
    answers = [{"id": f"p{n}", "score": float(n in right), "valid": n >= invalid} for n in range(100)]
    rows = [{"id": f"d{n}", "source": "a", "bytes": 100 + n, "bits": spent * (100 + n) + n % 3} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(answers), folder / "answers.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "bits.parquet")
    return Stage(f"evaluate@{model}", [], folder, current=True, metrics={"accuracy": 0.5})


def test_a_model_stands_beside_the_one_it_began_with_else_the_one_before(tmp_path: Path) -> None:
    stages = [put(tmp_path, name, range(50), 2.0) for name in ("a", "b", "c", "d")]
    params = {"a": {"model": {"width": 1}}, "c": {"model": "a"}, "d": {"model": "elsewhere"}, "models": ["a"]}
    assert {model: found.other for model, found in compare_models(stages, params).items()} == {
        "b": "a",
        "c": "a",
        "d": "c",
    }
    assert compare_models(stages[:1], params) == {} == compare_models([], {})


def test_differences_are_of_what_both_answered(tmp_path: Path) -> None:
    stages = [put(tmp_path, "a", range(40), 2.0), put(tmp_path, "b", range(20, 70), 1.5, invalid=10)]
    found = compare_models(stages, {})["b"]
    assert found.accuracy is not None and found.bits_per_byte is not None
    # of problems 10 to 99 the first has 30 right, the second 50
    assert (found.accuracy.mean, found.accuracy.count) == (
        pytest.approx(20 / 90),
        90,
    ) and not found.accuracy.includes_zero
    assert found.bits_per_byte.mean == pytest.approx(-0.5) and found.bits_per_byte.count == 20
    assert format_points(found.accuracy).startswith("+22.2 (+") and format_bits(found.bits_per_byte).startswith(
        "-0.5000 (-"
    )


def test_the_divergence_is_from_what_a_model_was_made_of_alone(tmp_path: Path) -> None:
    """Of b, which began with a; not of c, which stands behind b in the list and began with neither."""
    stages = [put(tmp_path, name, range(50), 2.0) for name in "abc"]
    for n, name in enumerate("abc"):
        logp_KV = np.log(np.array([[0.5 - 0.1 * n, 0.5 + 0.1 * n]] * 12)).astype("<f2")
        rows = [{"id": f"d{k}", "source": "s", "place": 1, "logp": logp_KV[k].tobytes()} for k in range(12)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "distributions.parquet")
    found = compare_models(stages, {"b": {"model": "a"}})
    kl = found["b"].kl
    assert kl is not None and found["c"].kl is None and found["c"].other == "b"
    assert kl.mean == pytest.approx(0.4 * np.log(0.4 / 0.5) + 0.6 * np.log(0.6 / 0.5), rel=2e-2)
    assert format_nats(kl).startswith("0.02") and " (" in format_nats(kl) and format_nats(None) == ""
    assert found["b"].row()["kl"] == {"mean": kl.mean, "low": kl.low, "high": kl.high, "count": 12}  # no verdict
    assert found["c"].row()["kl"] is None


def test_models_that_are_alike_have_no_difference_in_words(tmp_path: Path) -> None:
    stages = [put(tmp_path, name, range(40), 2.0) for name in ("a", "b")]
    found = compare_models(stages, {})["b"]
    assert format_points(found.accuracy).startswith("no difference: +0.0 (")
    assert format_bits(found.bits_per_byte) == "no difference: +0.0000 (+0.0000 to +0.0000)"


def test_an_evaluation_made_anew_is_read_anew(tmp_path: Path) -> None:
    stages = [put(tmp_path, "a", range(40), 2.0), put(tmp_path, "b", range(40), 2.0)]
    compare_models(stages, {})
    put(tmp_path, "b", range(90), 1.0)
    found = compare_models(stages, {})["b"]
    assert found.accuracy and found.accuracy.mean == 0.5 and found.bits_per_byte
    assert found.bits_per_byte.mean == pytest.approx(-1.0)


def test_what_is_missing_is_told_of_nothing(tmp_path: Path) -> None:
    stages = [put(tmp_path, "a", range(40), 2.0), put(tmp_path, "b", range(50), 2.0)]
    (tmp_path / "a/bits.parquet").unlink()
    (tmp_path / "b/answers.parquet").unlink()
    assert (
        compare_models(stages, {})["b"] == ModelComparison("a", None, None)
        and scores_of(tmp_path / "b/answers.parquet") == {}
    )
    assert (format_points(None), format_bits(None)) == ("", "")


def test_it_is_in_the_table_on_the_page_and_in_json(tmp_path: Path) -> None:
    root = build(tmp_path)
    lines = table(root).splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("model") and "beside" in line)
    assert lines[head + 1].split()[:2] == ["pretrain", "-"]
    assert lines[head + 2].split()[:2] == ["rl", "pretrain"] and "no difference" in lines[head + 2]
    assert "Each beside the one it began with" in render(root).read_text()
    told = stage_results(root)["stages"]
    assert told["evaluate@rl"]["beside"]["model"] == "pretrain"
    assert told["evaluate@rl"]["beside"]["accuracy"]["count"] == 19 and "beside" not in told["evaluate@pretrain"]
    json.dumps(told)
    assert "beside" in stage_results(root, ["evaluate@rl"])["stages"]["evaluate@rl"], "whatever else is asked for"
    shutil.rmtree(root / "data/evaluate/pretrain")
    assert "rl" in table(root)
    assert [stage.name for stage in read_stages(root)]
