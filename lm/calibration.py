"""What flows into each matrix while a model does its work: the text of its pretraining, and its own answers to problems."""

import torch
from pydantic import Field
from torch import Tensor

from lm.checkpoint import device
from lm.config import Config
from lm.model import Decoder
from lm.sampler import generate
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation, collate
from lm.training.data.plan import Plan

# Rows of a forward pass: bounds memory.
BATCH = 16
Batch = tuple[Tensor, Tensor]


class Calibration(Config):
    problems: int = Field(256, ge=0, description="of the sft split, answered by the model at temperature 1")
    sequences: int = Field(16, ge=0, description="of pretraining text")
    max_new_tokens: int = Field(32, gt=0)


def batches_of(
    model: Decoder, tokenizer: Tokenizer, prompts: list[str], plan: Plan, config: Calibration, seed: int, slot: str
) -> list[Batch]:
    """(ids_BT, mask_BT) of everything; the mask is true where a token is no padding. Prompts that do not fit are left out,
    which is said of `slot`."""
    batches: list[Batch] = []
    step = 0
    while sum(len(ids) for ids, _ in batches) < config.sequences:
        wanted = min(BATCH, config.sequences - sum(len(ids) for ids, _ in batches))
        ids = plan.batch(step % plan.steps)[:wanted, : model.config.context]
        batches.append((ids, torch.ones_like(ids, dtype=torch.bool)))
        step += 1
    fitting = [p for p in map(tokenizer.chat, prompts) if len(p) + config.max_new_tokens <= model.config.context]
    if config.problems and len(fitting) < len(prompts):
        print(
            f"{slot}: {len(prompts) - len(fitting)} of {len(prompts)} prompts are left out: they and "
            f"{config.max_new_tokens} new tokens are more than the context of {model.config.context}",
            flush=True,
        )
    for start in range(0, min(len(fitting), config.problems), BATCH):
        asked = fitting[start : min(start + BATCH, config.problems)]
        answers = generate(model, asked, config.max_new_tokens, 1.0, tokenizer.end_id, seed + start, rows=BATCH)
        whole = [Conversation(p, a.ids) for p, a in zip(asked, answers, strict=True)]
        ids, _ = collate(whole, tokenizer.pad_id)
        lengths = torch.tensor([len(c) for c in whole])
        batches.append((ids, torch.arange(ids.shape[1]) < lengths[:, None]))
    return batches


@torch.no_grad()
def inputs_of(model: Decoder, names: list[str], batches: list[Batch]) -> dict[str, Tensor]:
    """inputs_NI that each of these weights of linear layers sees over the batches, padding left out."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    mask = torch.empty(0)

    def keep(name: str, inputs: Tensor) -> None:
        seen[name].append(inputs[mask])

    hooks = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, inputs, name=name: keep(name, inputs[0])
        )
        for name in names
    ]
    for ids, real in batches:
        mask = real.to(device())  # what `keep` reads
        model(ids.to(device()))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def upper_factor(inputs_NI: Tensor, damping: float) -> Tensor:
    """U_II, upper triangular, with U' U the inverse of H = X' X / N + damping x mean diagonal; 1 for an input never seen."""
    inputs = inputs_NI.double()
    hessian = inputs.T @ inputs / len(inputs)
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
