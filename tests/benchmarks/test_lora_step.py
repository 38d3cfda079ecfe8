"""What the LoRA step is compared by, and what both of its arms begin with; tests/system/benchmarks runs them."""

from pathlib import Path

import pytest
import torch

from benchmarks.lora_step import METHOD, gate
from lm.hugging_face.adapters import read_adapter
from lm.hugging_face.merge import merge
from lm.model_folder import read_model
from tests.benchmarks.lora_folder import small_bench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bench(tmp_path)


def test_the_gate_names_the_first_step_that_differs() -> None:
    assert gate([8.0, 7.0], [8.0, 7.0005]) == ""
    assert gate([8.0, 7.0, 6.0], [8.0, 7.001, 6.1]) == "loss of step 1: ours 7.000000, peer 7.001000"
    assert gate([float("nan")], [8.0]) != ""
    with pytest.raises(ValueError):
        gate([8.0], [8.0, 7.0])


def test_what_both_begin_with_is_the_model_and_every_row_is_there(folder: Path) -> None:
    rows, ordered = ((folder / name / "rows.jsonl").read_text().splitlines() for name in ("rows", "ordered"))
    assert sorted(rows) == sorted(ordered) and rows != ordered
    deltas = read_adapter(folder / "adapter")
    assert len(deltas) == 14 and all(len(delta.down_RI) == METHOD.rank for delta in deltas.values())
    assert all(delta.down_RI.any() and not delta.up_OR.any() for delta in deltas.values())
    merge(folder / "model", folder / "adapter", folder / "merged")
    models = [read_model(folder / name)[0].state_dict() for name in ("model", "merged")]
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())
