"""Peers of the pretraining step with a trainer of their own: transformers' Trainer and litgpt's pretraining loop."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.plain import batches
from benchmarks.steps import Steps
from benchmarks.turns import Turns


def transformers_trainer(turns: Turns, folder: str, tokens: int, steps: int, rate: float) -> None:
    """LlamaForCausalLM under Trainer, with its defaults but for what the comparison fixes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaForCausalLM, Trainer, TrainingArguments

    model = LlamaForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    all_batches = batches(Path(folder), tokens)
    # labels are there to be counted, which Trainer does from the second token of each row on
    rows = [{"input_ids": r[:-1], "labels": r, "shift_labels": r[1:]} for ids_BN in all_batches for r in ids_BN]
    done = Steps(turns, tokens, steps)

    class Timed(Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            self.last_loss = super().training_step(*arguments, **named)
            return self.last_loss

    arguments = TrainingArguments(
        output_dir=str(Path(folder) / "trainer"),
        use_cpu=True,
        max_steps=len(all_batches),
        per_device_train_batch_size=len(all_batches[0]),
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        learning_rate=rate,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Timed(model, arguments, train_dataset=rows)
    trainer.add_callback(_after_each_step(lambda: done(trainer.last_loss.item())))
    trainer.train()


def _after_each_step(call: Any) -> Any:
    from transformers import TrainerCallback

    class AfterEachStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            call()

    return AfterEachStep()


def litgpt_pretrain(turns: Turns, folder: str, tokens: int, steps: int, rate: float) -> None:
    """The loop of `litgpt pretrain`: Fabric, the compiled GPT, AdamW (which it fuses on a GPU alone), chunked_cross_entropy
    by its default of 128 tokens, and the loss read at each step."""
    import lightning
    from litgpt.model import GPT, Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer

    theirs = json.loads((Path(folder) / "model" / "config.json").read_text())
    config = Config(
        name="bench",
        block_size=theirs["max_position_embeddings"],
        vocab_size=theirs["vocab_size"],
        padded_vocab_size=theirs["vocab_size"],
        n_layer=theirs["num_hidden_layers"],
        n_head=theirs["num_attention_heads"],
        n_embd=theirs["hidden_size"],
        rotary_percentage=1.0,
        rope_base=int(theirs["rope_theta"]),
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=theirs["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        intermediate_size=theirs["intermediate_size"],
    )
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
    raw = GPT(config)
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(Path(folder) / "model" / "model.safetensors"))
    raw.load_state_dict(weights)
    raw.transformer.wte.weight = raw.lm_head.weight
    model = fabric.setup(torch.compile(raw))
    settings = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate, "betas": [0.9, 0.95], "weight_decay": 0.0}}
    optimizer = fabric.setup_optimizers(instantiate_torch_optimizer(settings, model.parameters(), fused=False))
    done = Steps(turns, tokens, steps)
    for ids_BN in batches(Path(folder), tokens):
        loss = chunked_cross_entropy(model(ids_BN[:, :-1].contiguous()), ids_BN[:, 1:].contiguous())
        fabric.backward(loss)
        fabric.clip_gradients(raw, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        done(loss.item())
