"""What the LoRA step is compared by: both arms learn the same, step by step, in processes of their own."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.apart import apart
from benchmarks.lora_step import METHOD, arrange, near
from lm.hugging_face.adapters import read_adapter
from lm.hugging_face.export import save_hf
from lm.hugging_face.merge import merge
from lm.model_folder import read_model
from tests.lm.models import toy_model, toy_tokenizer

BATCH, WARM, TIMED = 3, 1, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model of a bench and its rows, small."""
    save_hf(toy_model(seed=1, context=128), toy_tokenizer(), tmp_path / "model", torch.float32)
    rows = [
        {
            "prompt": [{"role": "user", "content": "say " + "ab" * (7 * number % 11)}],
            "completion": [{"role": "assistant", "content": "yes " * (1 + 5 * number % 7)}],
        }
        for number in range(BATCH * (WARM + TIMED))
    ]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arrange(tmp_path, len(rows))
    return tmp_path


def test_the_gate_names_the_first_step_that_differs() -> None:
    assert near([8.0, 7.0], [8.0, 7.0005]) == ""
    assert near([8.0, 7.0, 6.0], [8.0, 7.001, 6.1]) == "loss of step 1: ours 7.000000, peer 7.001000"
    assert near([float("nan")], [8.0]) != ""
    with pytest.raises(ValueError):
        near([8.0], [8.0, 7.0])


def test_both_arms_have_the_same_losses(folder: Path) -> None:
    given = {"folder": str(folder), "threads": 1, "batch": BATCH, "warm": WARM, "timed": TIMED}
    ours, peer = (
        apart(name, f"benchmarks.{function}", **given).measure()
        for name, function in (("ours", "lora_step:ours"), ("peft", "lora_peers:peft_trainer"))
    )
    assert near(ours.answer, peer.answer) == "" and len(ours.answer) == WARM + TIMED
    for sample in (ours, peer):
        assert sample.values["completion_tokens_per_second"] > 0 and sample.values["peak_memory_bytes"] > 0


def test_what_both_begin_with_is_the_model_and_every_row_is_there(folder: Path) -> None:
    rows, ordered = ((folder / name / "rows.jsonl").read_text().splitlines() for name in ("rows", "ordered"))
    assert sorted(rows) == sorted(ordered) and rows != ordered
    deltas = read_adapter(folder / "adapter")
    assert len(deltas) == 14 and all(len(delta.down_RI) == METHOD.rank for delta in deltas.values())
    assert all(delta.down_RI.any() and not delta.up_OR.any() for delta in deltas.values())
    merge(folder / "model", folder / "adapter", folder / "merged")
    models = [read_model(folder / name)[0].state_dict() for name in ("model", "merged")]
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())
