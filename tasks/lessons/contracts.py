"""What storing targets asks of its teacher and its problems."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.sections import Sections

SPLITS = ("sft", "rl")  # of the problems that are asked, as tasks/lessons/stage.py takes them


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of lessons ask of others and that does not hold."""
    config, start = sections["lessons"], sections.start_shape("lessons")
    if config.top_k >= start.vocab_size:
        yield Finding(
            "params.yaml: lessons.top_k",
            f"{config.top_k} is no fewer than the model's {start.vocab_size} tokens",
            "lower it",
        )
    if start.logit_softcap is not None:
        yield Finding(
            f"params.yaml: {sections.key(config.model, 'logit_softcap')}",
            "stored targets do not know a cap of logits",
            "set it to null",
        )
    yield from check_room(
        "lessons.max_new_tokens", config.problems, SPLITS, config.max_new_tokens, sections, config.model
    )
