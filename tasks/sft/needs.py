"""What supervised fine-tuning takes: its model and checkpoints on disk, and the step that it repeats."""

from statistics import mean

import torch
from torch import Tensor

from lm.model import Decoder, ModelConfig
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import conversations
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import ConfigError
from tasks.sft.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no demonstration fits the context."""
    shape = sections.shape("sft")
    return StageNeeds(model_bytes(shape), checkpoint_bytes(shape), work(sections, shape))


def work(sections: Sections, shape: ModelConfig) -> Work:
    """A step of B conversations of T predictions, of which as many count as in the mean answer."""
    config = sections["sft"]
    lengths = [pair for pair in conversations(config.problems, "sft", shape.vocab_size) if sum(pair) <= shape.context]
    if not lengths:
        raise ConfigError(f"sft: none of the demonstrations fits the context of {shape.context} tokens")
    B, T = config.batch, max(map(sum, lengths)) - 1
    answered = mean(answer for _, answer in lengths) / (T + 1)

    def step() -> Step:
        model, ids_BN = Decoder(shape), torch.zeros((B, T + 1), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            kept_K = torch.arange(int((rows.stop - rows.start) * T * answered) + 1)
            return loss_of(model, ids_BN[rows], kept_K, denominator=1.0)

        return Step(model, Batch(B, T, B * T, loss))

    tokens = config.steps * B * mean(map(sum, lengths))
    return Work(config, shape, config.steps, tokens, step, lower(sections, config.model))
