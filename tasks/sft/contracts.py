"""What supervised fine-tuning asks of its problems and its model: demonstrations that fit, rows that divide."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_split, conversations
from tasks.about.sections import Sections
from tasks.about.training import check_shards


def contracts(sections: Sections) -> Iterator[Finding]:
    """What does not hold."""
    config, shape = sections["sft"], sections.shape("sft")
    yield from check_split(config.problems, "sft", shape.vocab_size)
    lengths = [sum(pair) for pair in conversations(config.problems, "sft", shape.vocab_size)]
    if lengths and min(lengths) > shape.context:
        yield Finding(
            f"params.yaml: {sections.key(config.model, 'context')}",
            f"{shape.context} is too short for sft: the shortest demonstration has about {min(lengths)} tokens",
            "raise it",
        )
    yield from check_shards("sft.batch", config, config.batch)
