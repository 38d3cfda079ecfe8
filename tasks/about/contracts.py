"""What a stage's parameters ask of others that does not hold, as its room says; of a room that says nothing and trains, whether
the rows of its step divide."""

from collections.abc import Iterator

import torch

from lm.config import ConfigError
from lm.shape import MASKED
from tasks.about.finding import Finding
from tasks.about.needs import needs_of
from tasks.about.sections import Sections
from tasks.about.training import check_shards, is_training_stage
from tasks.runner.rooms import part_of


def contracts_of(stage: str, sections: Sections) -> Iterator[Finding]:
    """Raises ConfigError for what its needs.py cannot tell, such as of problems that do not fit."""
    yield from of_causal(stage, sections)
    room = part_of(stage, "contracts")
    if room:
        yield from room.contracts(sections)
    elif is_training_stage(stage) and (work := needs_of(stage, sections).work):
        with torch.device("meta"):
            batch = work.step().batch
        yield from check_shards(stage, work.recipe, batch.rows, batch.together)


def of_causal(stage: str, sections: Sections) -> Iterator[Finding]:
    """A stage that begins with a model is given a causal one: it would read another's masked tokens as next ones."""
    start = sections.starts_from(stage)
    try:
        causal = start is None or sections.shape(start).causal
    except ConfigError:  # its own checks say so
        return
    if not causal:
        yield Finding(f"params.yaml: {stage}.model", f"{start}: {MASKED}", "begin with another model")
