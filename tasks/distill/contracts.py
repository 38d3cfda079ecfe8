"""What distillation asks of its teacher, its problems and the plan."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.sections import Sections
from tasks.about.training import check_shards
from tasks.distill.needs import SPLITS, texts_of


def contracts(sections: Sections) -> Iterator[Finding]:
    """What does not hold; the student is smaller than its teacher, whose width and vocabulary it shares."""
    config, teacher = sections["distill"], sections.start_shape("distill")
    yield from check_shards("distill.batch", config, config.batch + texts_of(sections))
    if config.student_layers >= teacher.layers:
        yield Finding(
            "params.yaml: distill.student_layers",
            f"{config.student_layers} is no fewer than the teacher's {teacher.layers}",
            f"lower it, or raise {sections.key(config.model, 'layers')}",
        )
    yield from check_room(
        "distill.max_new_tokens", config.problems, SPLITS, config.max_new_tokens, sections, config.model
    )
