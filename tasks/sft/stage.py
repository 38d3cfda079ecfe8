"""Supervised fine-tuning: the model learns to answer problems from demonstrations."""

from pathlib import Path

from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device, load_model, save_model
from lm.config import choice
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.conversations import Conversation, chosen, collate, token_logps
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.stage import main


class SftConfig(Recipe):
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
    """data/pretrain -> data/sft. Loss: mean cross-entropy (nats) over the completion tokens of the step."""
    model, tokenizer = load_model(data / "pretrain")
    model.to(device())
    examples = config.problems.examples("sft")
    conversations = conversations_of(examples, tokenizer, model.config.context)
    if not conversations:
        raise ConfigError(
            f"sft: none of the {len(examples)} demonstrations fits the context of {model.config.context} tokens"
        )

    def batch_at(step: int) -> list[Conversation]:
        return [conversations[i] for i in chosen(step, config.batch, len(conversations), config.seed)]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        ids_BN, mask_BT = (t.to(device()) for t in collate(batch_at(step), tokenizer.pad_id))
        return -(token_logps(model, ids_BN) * mask_BT).sum() / mask_BT.sum(), {}

    train(model, config, config.steps, loss_at, log, lambda step: sum(map(len, batch_at(step))))
    save_model(data / "sft", model, tokenizer)
    return {"steps": config.steps, "examples": len(conversations), "too_long": len(examples) - len(conversations)}


if __name__ == "__main__":
    main("sft", SftConfig, run)
