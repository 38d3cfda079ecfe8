"""What trains the model of `step_same` otherwise: a loop in nanoGPT's manner, and transformers' Trainer, compiled, in bf16."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.gpu.check import Check
from benchmarks.gpu.corpus import prepare
from benchmarks.gpu.pretraining import RATE, flops, sequences, shape
from benchmarks.gpu.watch import Watch
from benchmarks.plain import Llama, from_theirs
from lm.hugging_face.load import their_name
from lm.model import Decoder, ModelConfig
from lm.training.data.plan import Plan

# Sequences of a micro-batch: nanochat's
ROWS = 32


def step_plain(check: Check) -> None:
    """nanoGPT's manner, from the weights and the batches of `step_same`; says how far the losses lie from those of ours."""
    model_shape, steps, rows = shape(check, qk_norm=False), 5 if check.tiny else 8, 4 if check.tiny else ROWS
    model = plain_model(model_shape).to(check.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    loss_of = model if check.tiny else torch.compile(model)
    parts = sequences(check) // rows
    log = Watch(check, steps, sequences(check) * model_shape.context, flops(model_shape))
    losses = []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), model_shape.vocab_size, steps, sequences(check), model_shape.context)
        plan = Plan(Path(name) / "curriculum", Path(name) / "tokenize")
        for step in range(steps):
            total = torch.zeros((), device=check.device)
            for ids_BN in plan.batch(step).to(check.device).split(rows):
                with torch.autocast(check.device.type, torch.bfloat16, enabled=check.on_gpu):
                    loss = loss_of(ids_BN[:, :-1].contiguous(), ids_BN[:, 1:].contiguous()) / parts
                loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(total.item())
            log(step, loss=losses[-1])
            log.progress(step + 1, steps)
    log.finish()
    said = [row["value"] for row in check.rows() if (row["item"], row["name"]) == ("step_same", "losses")]
    ours = [float(loss) for loss in said[-1].split(", ")] if said else []
    # bf16 products in another order: the losses of a few steps agree to some 1e-3 where both train the same
    apart = max((abs(a - b) for a, b in zip(ours, losses, strict=False)), default=None)
    check.say("losses beside step_same's, farthest", "step_same did not run" if apart is None else apart, "nats")


def plain_model(model: ModelConfig) -> Llama:
    """Plain Llama with the weights that the stage begins with."""
    plain = Llama(
        {
            "hidden_size": model.width, "num_attention_heads": model.heads, "rms_norm_eps": model.norm_eps,
            "vocab_size": model.vocab_size, "intermediate_size": model.ffn_width, "num_hidden_layers": model.layers,
            "rope_theta": model.rope_theta, "max_position_embeddings": model.context,
        }
    )  # fmt: skip
    ours = {their_name(name, model): weight for name, weight in Decoder(model, 0).state_dict().items()}
    plain.load_state_dict(from_theirs(ours, model.layers))
    return plain


class Rows(Dataset[dict[str, Tensor]]):
    """Random sequences as the Trainer takes them; it shifts the labels itself."""

    def __init__(self, count: int, length: int, vocab_size: int) -> None:
        self._ids = torch.randint(vocab_size, (count, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids[index], "labels": self._ids[index]}


def step_trainer(check: Check) -> None:
    """transformers' Trainer with its fused AdamW."""
    if not (find_spec("transformers") and find_spec("accelerate")):
        check.say("tokens a second", "transformers or accelerate is not installed")
        return
    import transformers

    model_shape, steps, rows = shape(check, qk_norm=False), 4 if check.tiny else 6, 4 if check.tiny else ROWS
    log = Watch(check, steps, sequences(check) * model_shape.context, flops(model_shape))

    class Told(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            log.progress(state.global_step, steps)

    with tempfile.TemporaryDirectory() as name:
        arguments = transformers.TrainingArguments(
            output_dir=name, max_steps=steps, per_device_train_batch_size=rows, seed=0, report_to=[], save_strategy="no",
            gradient_accumulation_steps=sequences(check) // rows, bf16=check.on_gpu, use_cpu=not check.on_gpu,
            torch_compile=not check.tiny, optim="adamw_torch_fused", learning_rate=RATE, max_grad_norm=1.0,
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        data = Rows(steps * sequences(check), model_shape.context, model_shape.vocab_size)
        trainer = transformers.Trainer(
            model=transformers.LlamaForCausalLM(llama(model_shape)),
            args=arguments,
            train_dataset=data,
            callbacks=[Told()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    log.finish()


def llama(model: ModelConfig) -> Any:
    """transformers' config of a shape without QK-norm, its embedding tied."""
    import transformers

    return transformers.LlamaConfig(
        vocab_size=model.vocab_size, hidden_size=model.width, intermediate_size=model.ffn_width,
        num_hidden_layers=model.layers, num_attention_heads=model.heads, num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.context, tie_word_embeddings=True, rms_norm_eps=model.norm_eps,
    )  # fmt: skip
