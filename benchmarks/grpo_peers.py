"""The peer of GRPO: TRL's GRPOTrainer, which samples by transformers."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

# as benchmarks/grpo_step.py has them, which this process cannot import
PROMPTS, SAMPLES, LONGEST, RATE = 16, 8, 128, 1e-5
WARM, TIMED, GRADIENT_ROWS = 1, 2, 64


def trl_grpo(folder: str, threads: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """GRPOTrainer with its defaults but for what the comparison fixes."""
    torch.set_num_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    place = Path(folder)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    found = logps_and_gradient(model, place)
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    rows = [{"prompt": [{"role": "user", "content": p}]} for p in json.loads((place / "prompts.json").read_text())]

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [len(c[0]["content"]) % 7 / 6 for c in completions]

    arguments = GRPOConfig(
        output_dir=str(place / "trl"), use_cpu=True, max_steps=WARM + TIMED, per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES, max_completion_length=LONGEST, steps_per_generation=1, temperature=1.0, beta=0.0, bf16=False,
        gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=RATE, weight_decay=0.0, max_grad_norm=1.0,
        lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        shuffle_dataset=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, reward, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    times: list[float] = []
    seconds, tokens, generate, step = [0.0], [0], trainer._generate_and_score_completions, trainer.training_step

    def timed(inputs: Any) -> Any:
        began = time.perf_counter()
        made = generate(inputs)
        if len(times) > WARM:
            seconds[0] += time.perf_counter() - began
            tokens[0] += int(made["completion_mask"].sum())
        return made

    def stepped(*given: Any, **named: Any) -> Any:
        times.append(time.perf_counter())
        return step(*given, **named)

    trainer._generate_and_score_completions, trainer.training_step = timed, stepped
    trainer.train()
    took = (time.perf_counter() - times[WARM]) / TIMED
    return {"step": took, "rollout_tokens_per_second": tokens[0] / seconds[0]}, found


def logps_and_gradient(model: Any, place: Path) -> dict[str, list[float]]:
    """Log-probabilities and gradient of the judged answers, as benchmarks/grpo_step.py has them of ours."""
    given = json.loads((place / "judged.json").read_text())
    ids_BN, advantages_B = torch.tensor(given["ids"]), torch.tensor(given["advantages"])
    logps_BTV = model(ids_BN[:, :-1]).logits.log_softmax(-1)
    logps_BT = logps_BTV.gather(2, ids_BN[:, 1:, None])[..., 0]
    (-(advantages_B[:, None] * logps_BT).mean()).backward()
    gradient = model.get_input_embeddings().weight.grad[ids_BN[0, :GRADIENT_ROWS]].flatten().tolist()
    model.zero_grad(set_to_none=True)
    return {"logps": logps_BT.detach().flatten().tolist(), "gradient": gradient}
