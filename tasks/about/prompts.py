"""What a prompt in front of every text asks of the stages that read such a model."""

from collections.abc import Iterator

from lm.training.prompted import Prompted
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import CHECKPOINT


def carries_prompt(sections: Sections, model: str | None) -> bool:
    """Whether the model of this name begins every text with a prompt that a stage before has learned."""
    seen: set[str] = set()
    while model is not None and model != CHECKPOINT and model not in seen:
        config = sections[model]
        if not isinstance(config, Prompted):
            return False
        if config.learns_prompt:
            return True
        seen.add(model)
        model = sections.starts_from(model)
    return False


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
