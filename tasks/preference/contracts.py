"""What preference asks of its problems and its model: pairs that divide, and prompts that leave room for answers."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room, check_split
from tasks.about.sections import Sections
from tasks.about.training import check_shards


def contracts(sections: Sections) -> Iterator[Finding]:
    """What does not hold."""
    config = sections["preference"]
    yield from check_shards("preference.batch", config, 2 * config.batch, together=2)
    for source in config.pairs:
        if source.samples_model:
            yield from check_split(config.problems, source.split, sections.shape("preference").vocab_size)
            splits, new_tokens = (source.split,), source.max_new_tokens
            yield from check_room(
                "preference.pairs: max_new_tokens", config.problems, splits, new_tokens, sections, "preference"
            )
