"""Peers of fine-tuning: transformers' Trainer with batches of like length, and TRL's SFTTrainer, padded and packed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

# as benchmarks/sft_step.py has them, which these processes cannot import
CONTEXT, BATCH, RATE = 512, 16, 1e-3
WARM, TIMED = 2, 16


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def grouped_trainer(folder: str, threads: int) -> tuple[dict[str, float], float]:
    """Trainer with rows sorted into batches of like length, and labels on answers alone."""
    torch.set_num_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    place = Path(folder)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place / "model", padding_side="right")

    def tokens(row: dict[str, Any]) -> dict[str, list[int]]:
        before: Any = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole: Any = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        return {"input_ids": whole, "labels": [-100] * len(before) + whole[len(before) :]}

    timed = _Timed()
    arguments = TrainingArguments(
        output_dir=str(place / "trainer"), use_cpu=True, num_train_epochs=1, per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64, train_sampling_strategy="group_by_length", optim="adamw_torch_fused",
        learning_rate=RATE, weight_decay=0.0, max_grad_norm=1.0, lr_scheduler_type="constant", save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[tokens(row) for row in rows_of(place / "rows")],
        eval_dataset=[tokens(row) for row in rows_of(place / "judged")],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    return timed.over(trainer)


def trl_sft(folder: str, threads: int, packing: bool) -> tuple[dict[str, float], float]:
    """SFTTrainer on prompts and completions. Packed rows are as long as ours; a step takes as many of them as hold as many
    tokens as sixteen conversations on the mean, and its epoch has every row as well.

    Padded is what TRL supports on a CPU. Its packing is always free of padding, which it documents for FlashAttention 2 or 3
    alone (TRL 1.16, SFTConfig.padding_free): with attention of torch's the packed arm is a bound, not its best way.
    """
    torch.set_num_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    place = Path(folder)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    timed = _Timed()
    arguments = SFTConfig(
        output_dir=str(place / "trl"), use_cpu=True, num_train_epochs=1, per_device_train_batch_size=5 if packing else BATCH,
        per_device_eval_batch_size=64, packing=packing, eval_packing=False, max_length=CONTEXT, completion_only_loss=True,
        bf16=False, gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=RATE, weight_decay=0.0,
        max_grad_norm=1.0, lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(rows_of(place / "rows")),
        eval_dataset=Dataset.from_list(rows_of(place / "judged")),
        processing_class=tokenizer,
    )
    return timed.over(trainer)


class _Timed:
    """An epoch of a trainer, timed from its third step on, in tokens that count."""

    def over(self, trainer: Any) -> tuple[dict[str, float], float]:
        from transformers import TrainerCallback

        loss = trainer.evaluate()["eval_loss"]
        counts: list[tuple[float, int]] = []
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            counts.append((time.perf_counter(), int((inputs["labels"][:, 1:] != -100).sum())))
            return step(model, inputs, *rest, **more)

        trainer.training_step = counted

        class Ends(TrainerCallback):
            def on_train_end(self, *_: Any, **__: Any) -> None:
                counts.append((time.perf_counter(), 0))

        trainer.add_callback(Ends())
        trainer.train()
        seconds = counts[-1][0] - counts[WARM][0]
        return {"completion_tokens_per_second": sum(tokens for _, tokens in counts[WARM:]) / seconds}, loss
