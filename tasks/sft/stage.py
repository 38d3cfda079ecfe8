"""Supervised fine-tuning: the model learns to answer problems from demonstrations."""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model_folder import read_model
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.ahead import Ahead
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, places, sample_indices
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.transfer import Tensors
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.sft.step import loss_of


class SftConfig(Recipe):
    model: StartModel
    steps: int = Field(200, gt=0)
    batch: int = Field(64, gt=0, description="conversations a step")
    problems: choice(problems)
    seed: int


def conversations_of(examples: list[Example], tokenizer: Tokenizer, context: int) -> list[Conversation]:
    """The demonstrations that fit the context, each ended by the end token."""
    every = (
        Conversation(tokenizer.chat(e.prompt), [*tokenizer.encode(e.demonstration), tokenizer.end_id]) for e in examples
    )
    return [c for c in every if len(c) <= context]


def run(config: SftConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/sft. Loss: mean cross-entropy (nats) over the completion tokens of the step."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    examples = config.problems.examples("sft")
    conversations = conversations_of(examples, tokenizer, model.config.context)
    if not conversations:
        raise ConfigError(
            f"sft: none of the {len(examples)} demonstrations fits the context of {model.config.context} tokens"
        )

    def chosen_at(step: int) -> list[Conversation]:
        return [conversations[i] for i in sample_indices(step, config.batch, len(conversations), config.seed)]

    def fetch(step: int) -> Tensors:
        """ids_BN, mask_BT, the places of the K predictions that count among all B x T, and how many tokens there are."""
        chosen_now = chosen_at(step)
        ids_BN, mask_BT = collate(chosen_now, tokenizer.pad_id)
        return ids_BN, mask_BT, places(mask_BT), torch.tensor(sum(map(len, chosen_now)))

    def batch_of(step: int, host: Tensors, here: Tensors) -> Batch:
        ids, mask, host_K, tokens = host
        ids_BN, mask_BT, places_K, _ = here
        T, counted = mask.shape[1], mask_BT.sum()

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            """The head sees no position that counts nothing; the host knows which, so that it need not ask the device."""
            first, end = torch.searchsorted(host_K, torch.tensor([rows.start * T, rows.stop * T])).tolist()
            kept_K = places_K[first:end] - rows.start * T
            return loss_of(model, ids_BN[rows], kept_K, denominator=counted)

        return Batch(len(ids), T, int(tokens), loss, content=(ids, mask))

    trunks = log.trunks(config, config.steps, [model], [tokenizer.to_json()], chosen_at)
    with Ahead(fetch, batch_of, config.steps, model.embedding.weight.device) as batch_at:
        train(model, config, config.steps, batch_at, log, trunks)
    save_model(data / "sft", model, tokenizer)
    return {"steps": config.steps, "examples": len(conversations), "too_long": len(examples) - len(conversations)}
