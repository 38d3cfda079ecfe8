"""What distillation asks of its teacher, its problems and the plan."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.sections import Sections
from tasks.about.training import check_shards
from tasks.distill.needs import SPLITS, texts_of
from tasks.distill.students import Layers, Whole
from tasks.distill.teachers import Alone


def contracts(sections: Sections) -> Iterator[Finding]:
    """What does not hold."""
    config, teacher = sections["distill"], sections.start_shape("distill")
    yield from check_shards("distill.batch", config, config.batch + texts_of(sections))
    if isinstance(config.student, Layers) and config.student.layers >= teacher.layers:
        yield Finding(
            "params.yaml: distill.student.layers",
            f"{config.student.layers} is no fewer than the teacher's {teacher.layers}",
            f"lower it, or raise {sections.key(config.model, 'layers')}",
        )
    elif isinstance(config.student, Whole) and isinstance(config.teachers, Alone) and config.labels == 0:
        yield Finding(
            "params.yaml: distill.student", "the student begins as its teacher, which is alone: nothing is learned",
            "take layers or fresh, other teachers, or labels",
        )  # fmt: skip
    yield from check_room(
        "distill.max_new_tokens", config.problems, SPLITS, config.max_new_tokens, sections, config.model
    )
