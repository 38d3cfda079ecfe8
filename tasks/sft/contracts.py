"""What supervised fine-tuning asks of its sources and its model: conversations that fit, rows that divide."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_split
from tasks.about.prompts import carries_prompt, check_carries
from tasks.about.sections import Sections
from tasks.about.training import check_shards
from tasks.core.config import ConfigError
from tasks.sft.needs import every_length
from tasks.sft.stage import BEHIND_A_PROMPT

# Sources that read the problem set's split for fine-tuning
OF_PROBLEMS = ("problems", "subtasks", "attempts")


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of sft ask of others and that does not hold."""
    config, shape = sections["sft"], sections.shape("sft")
    if any(source.name in OF_PROBLEMS for source in config.sources):
        yield from check_split(config.problems, "sft", shape.vocab_size)
    try:
        lengths = [sum(pair) for pair in every_length(sections)]
    except ConfigError as error:
        yield Finding("params.yaml: sft.sources", str(error), "put files there, or take another source")
        return
    if lengths and min(lengths) > shape.context and config.too_long == "drop":
        yield Finding(
            f"params.yaml: {sections.key(config.model, 'context')}",
            f"{shape.context} is too short for sft: the shortest demonstration has about {min(lengths)} tokens",
            "raise it",
        )
    yield from check_carries(sections, "sft")
    if config.packing and carries_prompt(sections, config.model):
        yield Finding("params.yaml: sft.packing", BEHIND_A_PROMPT, "or begin with a model without one")
    yield from check_shards("sft.batch", config, config.batch)
