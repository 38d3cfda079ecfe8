"""Gates of publishing: what passes, what does not, and the line that says why."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.params.compose import check, override
from flows.params.gates import Gates, gate_mistakes, gates_of
from flows.pipeline.gates import ModelEvaluation, check_gates
from lm.config import ConfigError
from tests.project import ROOT, TINY

METRICS = {"bits_per_byte": 1.5, "size_bytes": 2_000_000, "accuracy": 0.8}


def answers(right: range) -> dict[str, float]:
    return {str(n): float(n in right) for n in range(1000)}


def looked(folder: Path, right: range, **metrics: float) -> ModelEvaluation:
    rows = [{"id": name, "score": score, "valid": True} for name, score in answers(right).items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")
    return ModelEvaluation({**METRICS, **metrics}, folder, "md5")


@pytest.mark.parametrize(
    ("gates", "right", "passes", "said"),
    [
        ({"max_bits_per_byte": 1.5}, range(800), True, "passed: bits_per_byte 1.5, at most 1.5 is asked"),
        ({"max_bits_per_byte": 1.49}, range(800), False, "FAILED: bits_per_byte 1.5, at most 1.49 is asked"),
        ({"max_size_bytes": 1_999_999}, range(800), False, "FAILED: size_bytes 2 MB, at most 2 MB is asked"),
        ({"max_accuracy_loss": 0.01}, range(800), True, "passed: accuracy beside the champion's, in points: no difference"),
        # ten problems less of a thousand: a point, and at worst more
        ({"max_accuracy_loss": 0.01}, range(10, 800), False, "FAILED: accuracy beside the champion's, in points: -1.0 ("),
        ({"max_accuracy_loss": 0.02}, range(10, 800), True, "passed: accuracy beside the champion's, in points: -1.0 ("),
        ({"max_accuracy_loss": 0.0}, range(830), True, "passed: accuracy beside the champion's, in points: +3.0 ("),
        ({"max_accuracy_loss": 0.01, "max_size_bytes": 9}, range(800), False, "; FAILED: size_bytes 2 MB, at most 9 B"),
    ],
)  # fmt: skip
def test_gates_by_hand(tmp_path: Path, gates: dict[str, Any], right: range, passes: bool, said: str) -> None:
    found, reason = check_gates(Gates(**gates), looked(tmp_path, right), False, answers(range(800)))
    assert found == passes and said in reason and "\n" not in reason


def test_a_model_that_is_worse_by_chance_does_not_pass_for_few_problems(tmp_path: Path) -> None:
    """Nothing was found to be worse, and little is known: that is no reason to publish."""
    own = looked(tmp_path, range(800))
    few = {name: score for name, score in answers(range(800)).items() if int(name) >= 980}
    assert not check_gates(Gates(max_accuracy_loss=0.01), own, False, few)[0]


def test_without_a_gate_without_a_champion_and_without_its_answers(tmp_path: Path) -> None:
    own, gate = looked(tmp_path, range(800)), Gates(max_accuracy_loss=0.01)
    assert check_gates(Gates(), None, False, None) == (True, "no gate is set")
    assert check_gates(gate, own, False, None)[0] and "there is no champion" in check_gates(gate, own, False, None)[1]
    assert check_gates(gate, own, True, None)[0], "the champion stays what it is"
    lost = check_gates(gate, own, False, "DVC's cache lacks them")
    assert lost == (False, "FAILED: accuracy cannot be compared: DVC's cache lacks them")
    assert not check_gates(gate, own, False, {"other": 1.0})[0]
    for none in (None, ModelEvaluation({}, tmp_path, "")):
        assert (
            not check_gates(gate, none, False, None)[0]
            and "was not evaluated" in check_gates(gate, none, False, None)[1]
        )
    assert not check_gates(Gates(max_bits_per_byte=2), ModelEvaluation({"accuracy": 1.0}, tmp_path, ""), False, None)[0]


def test_the_section_is_read_by_no_stage_and_checked_as_one() -> None:
    assert gates_of({}) == Gates() and not Gates().asked and gates_of({"gates": {"max_size_bytes": 5}}).asked
    check(ROOT, {**TINY, "gates": {"max_accuracy_loss": 0.01}})
    first = override(dict(TINY), "gates.max_accuracy_loss=0.01")
    both = {"max_accuracy_loss": 0.01, "max_size_bytes": 5}
    assert override(first, "gates.max_size_bytes=5")["gates"] == both
    with pytest.raises(ConfigError, match=r"gates\.max_acuracy_loss: unknown key; did you mean 'max_accuracy_loss'"):
        check(ROOT, {**TINY, "gates": {"max_acuracy_loss": 0.01}})
    assert (
        "gates.max_bits_per_byte: input should be greater than 0"
        in gate_mistakes({"gates": {"max_bits_per_byte": 0}})[0]
    )
