"""What reinforcement learning takes: its model and checkpoints on disk, and the step that it repeats."""

import torch
from torch import Tensor

from lm.model import Decoder, ModelConfig
from lm.sampler import rows_for
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import last_of, longest_prompt
from tasks.about.sections import Sections
from tasks.about.training import checkpoint_bytes, lower, model_bytes
from tasks.about.work import Sampling, StageNeeds, Step, Work
from tasks.rl.step import loss_of


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no prompt fits the context."""
    shape = sections.shape("rl")
    return StageNeeds(model_bytes(shape), checkpoint_bytes(shape), work(sections, shape))


def work(sections: Sections, shape: ModelConfig) -> Work:
    """An update of B answers of T predictions, after a rollout now and then; every answer has all its tokens."""
    config = sections["rl"]
    prompt = longest_prompt("rl", config, ("rl",), shape)
    answers, T = config.prompts * config.samples, prompt + config.max_new_tokens - 1
    B = answers // config.minibatches

    def step() -> Step:
        model, ids_BN = Decoder(shape), torch.zeros((B, T + 1), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            R = rows.stop - rows.start
            places_K, ones_RT = last_of(R, T, config.max_new_tokens), torch.ones(R, T)
            old_RT = torch.zeros(R, T)
            return loss_of(
                config.loss, config.temperature, model, ids_BN[rows], places_K, old_RT, torch.ones(R), ones_RT
            )

        each = config.steps_a_rollout
        rows, new_tokens = rows_for(model, answers), config.max_new_tokens
        return Step(
            model, Batch(B, T, B * T, loss), Sampling(model, answers, rows, config.prompts, prompt, new_tokens, each)
        )

    tokens = config.steps * B * config.max_new_tokens
    less = lower(sections, config.model, "rl.max_new_tokens", "rl.prompts or rl.samples")
    return Work(config, shape, config.steps, tokens, step, less)
