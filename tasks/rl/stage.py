"""Reinforcement learning from a verifier: answers that it accepts become likelier."""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from lm import problems
from lm.checkpoint import device, load_model, save_model
from lm.config import choice
from lm.problems.example import Example
from lm.training.batch import Batch, Figures
from lm.training.conversations import chosen, collate, token_logps
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.core.stage import main
from tasks.core.trunks import trunks_of
from tasks.rl import advantages, losses
from tasks.rl.rollout import rollout


class RlConfig(Recipe):
    steps: int = Field(60, gt=0)
    prompts: int = Field(32, gt=0, description="problems a step")
    samples: int = Field(8, gt=0, description="answers to each problem")
    max_new_tokens: int = Field(32, gt=0)
    temperature: float = Field(1.0, gt=0)
    advantage: choice(advantages)
    loss: choice(losses)
    problems: choice(problems)
    seed: int


def run(config: RlConfig, data: Path, log: Log) -> dict[str, float]:
    """data/sft -> data/rl. One update for each set of rollouts, so the policy that sampled is the one that learns."""
    model, tokenizer = load_model(data / "sft")
    model.to(device())
    room = model.config.context - config.max_new_tokens
    examples = [e for e in config.problems.examples("rl") if len(tokenizer.chat(e.prompt)) <= room]
    if not examples:
        raise ConfigError(
            f"rl.max_new_tokens: no prompt fits the context of {model.config.context} less {config.max_new_tokens}"
        )

    def chosen_at(step: int) -> list[Example]:
        return [examples[i] for i in chosen(step, config.prompts, len(examples), config.seed)]

    def batch_at(step: int) -> Batch:
        batch = chosen_at(step)
        seed = config.seed * 1_000_003 + step
        model.eval()
        sampled = rollout(
            model, tokenizer, config.problems, batch, config.samples, config.max_new_tokens, config.temperature, seed
        )
        greedy_G = None
        if config.advantage.needs_greedy:
            greedy = rollout(model, tokenizer, config.problems, batch, 1, config.max_new_tokens, 0.0, seed)
            greedy_G = greedy.rewards_GS[:, 0].where(greedy.mask_GS[:, 0] > 0, torch.nan)  # no verdict, no baseline
        model.train()
        advantages_GS = config.advantage(sampled.rewards_GS, sampled.mask_GS, greedy_G)
        ids_BN, mask_BT = (t.to(device()) for t in collate(sampled.conversations, tokenizer.pad_id))
        mask_BT = mask_BT * sampled.mask_GS.flatten()[:, None].to(device())
        advantages_B, counted = advantages_GS.flatten().to(device()), mask_BT.sum()

        def loss(rows: slice) -> tuple[Tensor, Figures]:
            logps_BT = token_logps(model, ids_BN[rows], config.temperature)
            return config.loss(
                logps_BT.flatten(),
                logps_BT.detach().flatten(),
                advantages_B[rows, None].expand_as(logps_BT).flatten(),
                mask_BT[rows].flatten(),
                counted.clamp(min=1),
            )

        lengths = sum(len(c.completion) for c in sampled.conversations) / len(sampled.conversations)
        reward = (sampled.rewards_GS * sampled.mask_GS).sum() / sampled.mask_GS.sum().clamp(min=1)
        figures: Figures = {"reward": reward.item(), "completion_tokens": lengths, "finished": sampled.finished}
        return Batch(
            len(ids_BN), mask_BT.shape[1], int(counted), loss, figures, content=(ids_BN, mask_BT, advantages_B)
        )

    trunks = trunks_of("rl", config, config.steps, log, [model], [tokenizer.to_json()], chosen_at)
    train(model, config, config.steps, batch_at, log, trunks)
    save_model(data / "rl", model, tokenizer)
    return {"steps": config.steps, "problems": len(examples)}


if __name__ == "__main__":
    main("rl", RlConfig, run)
