"""What a reward model takes: its model and checkpoints on disk, and the step that it repeats."""

import torch
from torch import Tensor

from lm.heads import ScalarHeads, put_heads
from lm.model import ModelConfig
from lm.training.batch import Batch, Metrics
from tasks.about.pairs import lengths_of
from tasks.about.prompts import folder_bytes, model_with_prompt, states_bytes
from tasks.about.sections import Sections
from tasks.about.training import lower
from tasks.about.work import StageNeeds, Step, Work
from tasks.reward.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    shape = sections.shape("reward")
    return StageNeeds(
        folder_bytes(sections, "reward", shape), states_bytes(sections, "reward", shape), work(sections, shape)
    )


def work(sections: Sections, shape: ModelConfig) -> Work:
    """A step of pairs as long as the longest there are. What is sampled before the first step is not counted, nor what is
    scored between rounds; FLOP are those of a model with its output head, which is not read, and so too many by that."""
    config = sections["reward"]
    B, T = 2 * config.batch, max(lengths_of("reward", source, config.problems, shape)[0] for source in config.pairs)

    def step() -> Step:
        model, ids_BT = model_with_prompt(shape, sections, config.model), torch.zeros((B, T), dtype=torch.int64)
        put_heads(model, ScalarHeads(shape.width, config.members, config.seed))

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            R = rows.stop - rows.start
            last_R, counts_PM = torch.full((R,), T - 1), torch.ones(R // 2, config.members)
            return loss_of(config.loss, model, ids_BT[rows], last_R, counts_PM, 1.0, config.batch)

        return Step(model, Batch(B, T, B * T, loss, together=2))

    tokens = float(config.steps * B * T)
    return Work(config, shape, config.steps, tokens, step, lower(sections, config.model))
