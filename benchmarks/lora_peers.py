"""Peer of fine-tuning with LoRA: transformers' Trainer on a model that the library peft has adapted."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.sft_peers import BATCH, RATE, TIMED, WARM, rows_of


def peft_trainer(
    folder: str, threads: int, batch: int = BATCH, warm: int = WARM, timed: int = TIMED
) -> tuple[dict[str, float], list[float]]:
    """Trainer in the order of folder/ordered, where neighbours are of like length, from the adapter in folder/adapter; labels
    on answers alone. Timed from the first step that counts to the end of training."""
    torch.set_num_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    place = Path(folder)
    dense = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(dense, place / "adapter", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(place / "model", padding_side="right")

    def tokens(row: dict[str, Any]) -> dict[str, list[int]]:
        before: Any = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole: Any = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        return {"input_ids": whole, "labels": [-100] * len(before) + whole[len(before) :]}

    arguments = TrainingArguments(
        output_dir=str(place / "trainer"), use_cpu=True, max_steps=warm + timed, per_device_train_batch_size=batch,
        train_sampling_strategy="sequential", optim="adamw_torch_fused", learning_rate=RATE, weight_decay=0.0,
        max_grad_norm=1.0, lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, label_names=["labels"],
    )  # fmt: skip
    trainer: Any = Trainer(
        model,
        arguments,
        train_dataset=[tokens(row) for row in rows_of(place / "ordered")],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    began, answered, losses = list[float](), list[int](), list[torch.Tensor]()
    step = trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        began.append(time.perf_counter())
        answered.append(int((inputs["labels"][:, 1:] != -100).sum()))
        losses.append(step(model, inputs, *rest, **more))
        return losses[-1]

    trainer.training_step = counted
    trainer.train()
    seconds = time.perf_counter() - began[warm]
    return {"completion_tokens_per_second": sum(answered[warm:]) / seconds}, [float(loss) for loss in losses]
