"""What a bench of LoRA works on, made small."""

import json
from pathlib import Path

import torch

from benchmarks.lora_step import arrange
from lm.hugging_face.export import save_hf
from tests.lm.models import toy_model, toy_tokenizer

BATCH, WARM, TIMED = 3, 1, 4


def small_bench(folder: Path) -> Path:
    """The model of a bench and its rows, small, arranged in a folder."""
    save_hf(toy_model(seed=1, context=128), toy_tokenizer(), folder / "model", torch.float32)
    rows = [
        {
            "prompt": [{"role": "user", "content": "say " + "ab" * (7 * number % 11)}],
            "completion": [{"role": "assistant", "content": "yes " * (1 + 5 * number % 7)}],
        }
        for number in range(BATCH * (WARM + TIMED))
    ]
    (folder / "rows").mkdir()
    (folder / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arrange(folder, len(rows))
    return folder
