"""Pretraining: follows the curriculum's plan, from random weights to a language model."""

from pathlib import Path

from torch import Tensor

from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model import ModelConfig
from lm.tokenizer import Tokenizer
from lm.training.loop import train
from lm.training.plan import Plan
from lm.training.recipe import Recipe
from tasks.core.config import Checkpoint, ConfigError
from tasks.core.log import Log
from tasks.core.stage import main
from tasks.pretrain import objectives, starts


class PretrainConfig(Recipe):
    start: choice(starts)
    checkpoint: Checkpoint
    model: ModelConfig
    objective: choice(objectives)
    seed: int


def run(config: PretrainConfig, data: Path, log: Log) -> dict[str, float]:
    """data/curriculum, data/tokenize -> data/pretrain."""
    plan, tokenizer = Plan(data / "curriculum", data / "tokenize"), Tokenizer.load(data / "tokenize")
    try:
        model = config.start(config.model, tokenizer, Path(config.checkpoint.folder), config.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    longest, context = plan.batch(0).shape[1] - 1, model.config.context
    if longest > context:
        raise ConfigError(f"pretrain.model.context: {context} is shorter than the plan's sequences of {longest} tokens")
    model.to(device())

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        return config.objective(model, plan.batch(step).to(device()))

    train(model, config, plan.steps, loss_at, log, plan.tokens_at)
    save_model(data / "pretrain", model, tokenizer)
    return {"steps": plan.steps, "parameters": model.num_parameters()}


if __name__ == "__main__":
    main("pretrain", PretrainConfig, run)
