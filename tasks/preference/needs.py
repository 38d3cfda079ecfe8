"""What preference takes: its model and checkpoints on disk, and the step that it repeats."""

import torch
from torch import Tensor

from lm.model import ModelConfig
from lm.training.batch import Batch, Metrics
from tasks.about.pairs import lengths_of
from tasks.about.problem_lengths import last_of
from tasks.about.prompts import folder_bytes, model_with_prompt, states_bytes
from tasks.about.sections import Sections
from tasks.about.training import lower
from tasks.about.work import StageNeeds, Step, Work
from tasks.preference.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    shape = sections.shape("preference")
    return StageNeeds(
        folder_bytes(sections, "preference", shape), states_bytes(sections, "preference", shape), work(sections, shape)
    )


def work(sections: Sections, shape: ModelConfig) -> Work:
    """A step of pairs as long as the longest there are. What is sampled and read before the first step is not counted."""
    config = sections["preference"]
    longest, answer = max(lengths_of("preference", source, config.problems, shape) for source in config.pairs)
    B, T = 2 * config.batch, longest - 1

    def step() -> Step:
        model, ids_BN = model_with_prompt(shape, sections, config.model), torch.zeros((B, T + 1), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            R = rows.stop - rows.start
            tokens_R, reference_R = torch.full((R,), float(answer)), torch.zeros(R)
            places_K = last_of(R, T, answer)
            return loss_of(config.loss, model, ids_BN[rows], places_K, tokens_R, reference_R, 0.0, config.batch)

        return Step(model, Batch(B, T, B * T, loss, together=2))

    tokens = float(config.steps * B * longest)
    return Work(config, shape, config.steps, tokens, step, lower(sections, config.model))
