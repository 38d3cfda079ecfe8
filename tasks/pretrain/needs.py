"""What pretrain takes: its model and checkpoints on disk, and the step that it repeats."""

import torch

from lm.hugging_face.load import config_of as shape_in
from lm.model import Decoder, ModelConfig
from lm.training.batch import Batch
from tasks.about.sections import Sections
from tasks.about.training import STATE, checkpoint_bytes, lower, model_bytes
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import CHECKPOINT, ConfigError
from tasks.pretrain.step import loss_of


def shape(sections: Sections) -> ModelConfig:
    """pretrain.model, or that of the checkpoint it starts from; a vocabulary of 0 is the tokenizer's."""
    config, tokens = sections["pretrain"], sections.corpus_vocabulary()
    try:
        found = shape_in(sections.checkpoint_folder()) if origin(sections) == CHECKPOINT else config.model
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if sections["tokenize"].method.name == "hugging_face":
        return found.model_copy(update={"vocab_size": max(found.vocab_size, found.rows(tokens))})
    return found.model_copy(update={"vocab_size": found.vocab_size or found.rows(tokens)})


def origin(sections: Sections) -> str:
    """Who has the shape: the checkpoint where training starts from it, and pretrain.model then decides nothing."""
    return CHECKPOINT if sections["pretrain"].start.name == "hugging_face" else "pretrain"


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError for a plan without a step, or with sequences longer than the context."""
    made = shape(sections)
    checkpoints = checkpoint_bytes(made) + 2.0 * STATE * sections["pretrain"].objective.brought(made)
    return StageNeeds(model_bytes(made), checkpoints, work(sections, made))


def work(sections: Sections, made: ModelConfig) -> Work:
    """A step of B sequences of T predictions, N = T + 1 tokens."""
    config, plan, T = sections["pretrain"], sections["curriculum"], sections.plan_length()
    B, steps = plan.tokens_per_step // T, plan.tokens // plan.tokens_per_step
    if not B or not steps:
        raise ConfigError(f"curriculum.tokens_per_step: {plan.tokens_per_step} of {plan.tokens} in all make no step")
    if made.context < T:
        key = sections.key("pretrain", "context")
        raise ConfigError(f"{key}: a context of {made.context} is shorter than the plan's sequences of {T} tokens")

    def step() -> Step:
        model, ids_BN = Decoder(made), torch.zeros((B, T + 1), dtype=torch.int64)
        config.objective.bring(model, 0)
        loss = lambda rows: loss_of(config.objective, model, ids_BN, None, rows, B * T)  # noqa: E731
        return Step(model, Batch(B, T, B * T, loss), growth=config.growth if config.growth.grows else None)

    # memory-mapped tokens of 2 bytes, whose pages count once they were read; 16 bytes a range of the plan, some a document
    # and a sequence
    data_bytes = steps * B * (2 * T + 60)
    less = lower(sections, "pretrain", f"{sections.plan_key()}, then {sections.key('pretrain', 'width')}")
    return Work(config, made, int(plan.ramp.cuts(steps).sum()), steps * B * T, step, less, data_bytes, full_steps=steps)
