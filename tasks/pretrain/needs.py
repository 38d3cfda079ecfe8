"""What pretrain takes: its model and checkpoints on disk, and the step that it repeats."""

from dataclasses import replace
from pathlib import Path

import torch

from kernels.attention.documents import whole_rows
from lm.cache import Cache
from lm.checkpoint import read_description
from lm.context import Context
from lm.hugging_face.load import config_of as shape_in
from lm.model import Decoder, ModelConfig
from lm.model_folder import is_hugging_face
from lm.training.batch import Batch
from lm.training.v_cycle import saved_weight_bytes
from tasks.about.sections import Sections
from tasks.about.training import STATE, checkpoint_bytes, lower, model_bytes
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import CHECKPOINT, ConfigError
from tasks.pretrain.objectives import Salt
from tasks.pretrain.objectives.base import LossPosition
from tasks.pretrain.objectives.salt import SaltLoss
from tasks.pretrain.step import loss_of


class OfDocuments(Decoder):
    """A model whose passes stay within documents, wherever those begin: what they hold does not depend on that."""

    def _by_layer(self, context: Context, cache: Cache | None, rows: int, length: int) -> list[Context]:
        documents = whole_rows(rows, length, context.cos.device)
        return super()._by_layer(replace(context, documents=documents), cache, rows, length)


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


def smaller(folder: Path) -> ModelConfig:
    """Shape of the smaller model in a folder, of our format or Hugging Face's. Raises ValueError naming the file."""
    return shape_in(folder) if is_hugging_face(folder) else ModelConfig(**read_description(folder)["model"])


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError for a plan without a step, or with sequences longer than the context."""
    made = shape(sections)
    checkpoints = checkpoint_bytes(made) + 2.0 * STATE * sections["pretrain"].objective.added_parameters(made)
    asked = work(sections, made)
    growth = sections["pretrain"].growth
    if growth.grows:
        with torch.device("meta"):
            checkpoints += 2.0 * saved_weight_bytes(Decoder(made), growth, asked.steps)
    return StageNeeds(model_bytes(made), checkpoints, asked)


def work(sections: Sections, made: ModelConfig) -> Work:
    """A step of B sequences of T predictions, N = T + 1 tokens."""
    config, plan, T = sections["pretrain"], sections["curriculum"], sections.plan_length()
    B, steps = plan.tokens_per_step // T, plan.tokens // plan.tokens_per_step
    if not B or not steps:
        raise ConfigError(f"curriculum.tokens_per_step: {plan.tokens_per_step} of {plan.tokens} in all make no step")
    if made.context < T:
        key = sections.key("pretrain", "context")
        raise ConfigError(f"{key}: a context of {made.context} is shorter than the plan's sequences of {T} tokens")

    cuts_S = plan.ramp.cuts(steps)
    total, small = int(cuts_S.sum()), None
    if isinstance(config.objective, Salt):
        try:
            small = smaller(sections.checkpoint_folder()).model_copy(update={"vocab_size": made.vocab_size})
        except ValueError as error:
            raise ConfigError(str(error)) from None

    # kernels that look back alone hold nothing more for documents
    kind = OfDocuments if config.within_documents and not made.causal else Decoder

    def step() -> Step:
        model, ids_BN = kind(made), torch.zeros((B, T + 1), dtype=torch.int64)
        config.objective.add_modules(model, 0)
        objective, part = config.objective, 1.0
        frozen: tuple[Decoder, ...] = ()
        if small:
            objective, part = SaltLoss(config.objective, Decoder(small)), config.objective.share_of_steps(total)
            frozen = (objective.small,)
        at = LossPosition(step=0, steps=total)
        loss = lambda rows: loss_of(objective, model, ids_BN, None, rows, B * T, at=at)  # noqa: E731
        growth = config.growth if config.growth.grows else None
        return Step(model, Batch(B, T, B * T, loss), frozen=frozen, frozen_part=part, growth=growth)

    # memory-mapped tokens of 2 bytes, whose pages count once they were read; 16 bytes a range of the plan, some a document
    # and a sequence
    data_bytes = steps * B * (2 * T + 60)
    less = lower(sections, "pretrain", f"{sections.plan_key()}, then {sections.key('pretrain', 'width')}")
    parts = tuple(cuts_S.tolist()) if plan.ramp.doublings else ()
    return Work(config, made, total, steps * B * T, step, less, data_bytes, full_steps=steps, parts=parts)
