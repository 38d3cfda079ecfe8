"""Somebody's model, taught by their own template, and out again: transformers writes the tokens that we write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lm.averages import Last
from lm.checkpoint import load_model
from lm.hugging_face.export import save_hf
from lm.linears import Dense, LoRA
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.sampler import generate
from lm.schedules import Wsd
from tasks.core.config import Conversations
from tasks.core.log import Log
from tasks.sft.sources import Files
from tasks.sft.stage import SftConfig, run
from tests.conversations.folders import CHATML, LLAMA2, strangers_folder

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS = {"Llama": LLAMA2, "Qwen2": CHATML}
ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("the cat", "sat on the mat"), ("12 + 34", "46"), ("the mat", "the cat sat"))
]


class Heard(Log):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, step: int, **values: float) -> None:
        self.losses.append(values["loss"])


@pytest.mark.parametrize("linear", [Dense(), LoRA(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_model_learns_and_goes_home(kind: str, linear: Any, tmp_path: Path) -> None:
    start, data = tmp_path / "data" / "checkpoint", tmp_path / "data"
    strangers_folder(start, KINDS[kind], qwen=kind == "Qwen2")
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(start))
    config = getattr(transformers, f"{kind}Config")(**SIZES, vocab_size=vocabulary, max_position_embeddings=64)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(start)
    for name in ("sft", "conversations"):
        (data / name).mkdir()
    (data / "conversations" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    log = Heard()
    run(
        SftConfig(
            model="checkpoint", steps=60, batch=3, seed=0, sources=[Files()], linear=linear, packing=True, optimizer=AdamW(lr=1e-2),
            schedule=Wsd(), average=Last(), problems=Arithmetic(), conversations=Conversations(folder=str(data / "conversations")),
        ),
        data,
        log,
    )  # fmt: skip
    # LoRA leaves the embeddings of a model that knows nothing as they are
    assert log.losses[-1] < (0.5 if linear == Dense() else 0.95) * log.losses[0]
    model, tokenizer = load_model(data / "sft")
    save_hf(model, tokenizer, tmp_path / "out", torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for row in ROWS:
        asked = words.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=False)
        assert asked == tokenizer.chat(row["messages"][0]["content"])
        made = theirs.generate(torch.tensor([asked]), max_new_tokens=16, do_sample=False)[0, len(asked) :].tolist()
        (ours,) = generate(model, [asked], 16, 0.0, tokenizer.end_id, 0)
        assert made == ours.ids
        if linear == Dense():  # which learns three answers by heart
            assert ours.finished and tokenizer.decode(ours.ids).strip() == row["messages"][1]["content"]
