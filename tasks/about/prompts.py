"""What a prompt in front of every text asks of the stages that read such a model."""

from collections.abc import Iterator

import torch

from lm.model import Decoder, ModelConfig
from lm.prompts.base import Prompt, SoftPrompt
from lm.training.prompted import Prompted
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.about.training import STATE, model_bytes, weights_of
from tasks.core.config import CHECKPOINT


def learned_prompt(sections: Sections, model: str | None) -> Prompt | None:
    """How a stage has learned the prompt that the model of this name begins every text with; None: it begins with none."""
    seen: set[str] = set()
    while model is not None and model != CHECKPOINT and model not in seen:
        config = sections[model]
        if not isinstance(config, Prompted):
            return None
        if config.learns_prompt:
            found: Prompt = config.soft_prompt
            return found
        seen.add(model)
        model = sections.starts_from(model)
    return None


def carries_prompt(sections: Sections, model: str | None) -> bool:
    """Whether the model of this name begins every text with a prompt that a stage before has learned."""
    return learned_prompt(sections, model) is not None


def model_with_prompt(shape: ModelConfig, sections: Sections, start: str | None) -> Decoder:
    """A model of this shape, with an empty prompt as large as the one that the model of the name `start` carries, if any."""
    made, method = Decoder(shape), learned_prompt(sections, start)
    if method is not None:
        sizes = method.build(torch.zeros(1, 1)).described()
        made.set_prompt(SoftPrompt.of(sizes, shape.width))
    return made


def folder_bytes(sections: Sections, stage: str, shape: ModelConfig) -> float:
    """Bytes of the folder of the model of this shape that a stage hands on, with the prompt that it carries: one that the stage
    learns, or that of its start model. Of a prompt that is kept for itself the vectors stand there twice."""
    method = _prompt_behind(sections, stage)
    if method is None:
        return model_bytes(shape)
    made = method.build(torch.zeros(1, 1))
    again = len(made) * (made.keep and method is own_prompt(sections, stage))
    return model_bytes(shape) + 4.0 * shape.width * (sum(made.described().values()) + again)


def states_bytes(sections: Sections, stage: str, shape: ModelConfig) -> float:
    """Bytes of the two checkpoints that training has at most. Where a prompt is learned the model is in them as it is, without
    what an optimizer keeps of it."""
    if own_prompt(sections, stage) is not None:
        return 2.0 * (4 * weights_of(shape) + STATE * trained_numbers(sections, stage, shape))
    return 2.0 * STATE * trained_numbers(sections, stage, shape)


def trained_numbers(sections: Sections, stage: str, shape: ModelConfig) -> int:
    """Numbers that a stage which may learn a prompt trains: those that its prompt is made of, or the model's with those of one
    that it carries."""
    if (own := own_prompt(sections, stage)) is not None:
        return sum(weight.numel() for weight in own.build(torch.zeros(1, shape.width)).parameters())
    carried = learned_prompt(sections, sections.starts_from(stage))
    sizes = {} if carried is None else carried.build(torch.zeros(1, 1)).described()
    return weights_of(shape) + shape.width * sum(sizes.values())


def own_prompt(sections: Sections, stage: str) -> Prompt | None:
    """How a stage itself learns a prompt; None: it trains its model."""
    config = sections[stage]
    return config.soft_prompt if isinstance(config, Prompted) and config.learns_prompt else None


def _prompt_behind(sections: Sections, stage: str) -> Prompt | None:
    """How the prompt that the model of a stage carries when it ends is learned."""
    return own_prompt(sections, stage) or learned_prompt(sections, sections.starts_from(stage))


def check_carries(sections: Sections, stage: str) -> Iterator[Finding]:
    """The model of a stage that learns a prompt can carry it."""
    config, start = sections[stage], sections.starts_from(stage)
    if not config.learns_prompt:
        return
    key = f"params.yaml: {stage}.soft_prompt"
    if carries_prompt(sections, start):
        yield Finding(key, f"the model of {start} carries a prompt already", "set either to {name: none}")
    shape = sections.start_shape(stage)
    if shape.embeddings or any(layer.embeddings for layer in shape.pattern):
        yield Finding(key, "the model has embeddings of ids, which a prompt has none of", "set it to {name: none}")


def check_bare(sections: Sections, stage: str) -> Iterator[Finding]:
    """The model that a stage begins with carries no prompt, of which the stage would know nothing."""
    if carries_prompt(sections, start := sections.starts_from(stage)):
        yield Finding(
            f"params.yaml: {stage}.model",
            f"the model of {start} carries a soft prompt, which {stage} has no place for",
            "begin with a model without one, such as what distill makes of it",
        )
