"""What distillation asks of its teacher, its problems and the plan."""

from collections.abc import Iterator
from typing import Any

from lm.model import ModelConfig
from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.prompts import carries_prompt
from tasks.about.sections import Sections
from tasks.about.training import check_shards
from tasks.core.config import ConfigError
from tasks.distill.answers import Teacher
from tasks.distill.matches import Unmatched
from tasks.distill.needs import SPLITS, texts_of
from tasks.distill.stage import beside_prompt
from tasks.distill.step import refuse_caps
from tasks.distill.students import Layers, Sliced, Whole
from tasks.distill.teachers import Alone, Stored


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of distill ask of others and that does not hold."""
    config, teacher = sections["distill"], sections.start_shape("distill")
    try:
        refuse_caps(teacher, sections.shape("distill"))
    except ConfigError as error:
        yield Finding(
            f"params.yaml: {sections.key(config.model, 'logit_softcap')}",
            str(error).partition(": ")[2],
            "set it to null",
        )
    for texts in sorted({texts_of(sections), texts_of(sections, smallest=True)}, reverse=True):
        yield from check_shards("distill.batch", config, config.batch + texts)
    if isinstance(config.student, Layers) and config.student.layers >= teacher.layers:
        yield Finding(
            "params.yaml: distill.student.layers",
            f"{config.student.layers} is no fewer than the teacher's {teacher.layers}",
            f"lower it, or raise {sections.key(config.model, 'layers')}",
        )
    elif begins_as(config.student, teacher) and isinstance(config.teachers, Alone) and config.labels == 0:
        yield Finding(
            "params.yaml: distill.student", "the student begins as its teacher, which is alone: nothing is learned",
            "take layers or fresh, other teachers, or labels",
        )  # fmt: skip
    if carries_prompt(sections, config.model) and (said := beside_prompt(config)):
        yield Finding(f"params.yaml: {said[0]}", said[1], said[2])
    if isinstance(config.teachers, Stored):
        yield from unlike(config, sections["lessons"])
        if not isinstance(config.match, Unmatched):
            yield Finding(
                "params.yaml: distill.match", "stored targets know nothing of the teacher's inside", "take unmatched"
            )
    yield from check_room(
        "distill.max_new_tokens", config.problems, SPLITS, config.max_new_tokens, sections, config.model
    )


def begins_as(student: Any, teacher: ModelConfig) -> bool:
    """Whether the student begins as its teacher."""
    return isinstance(student, Whole) or (isinstance(student, Sliced) and student.shape(teacher) == teacher)


def unlike(config: Any, targets: Any) -> Iterator[Finding]:
    """What stored targets are to be, and are not."""
    by_teacher = isinstance(config.answers, Teacher)
    wanted = {
        "steps": config.steps,
        "batch": config.batch,
        "corpus_sequences": config.corpus_sequences,
        "max_new_tokens": config.max_new_tokens,
        "top_k": config.divergence.top_k,
        "temperature": config.divergence.temperature,
        "answers": config.answers.name,
        **({"answer_temperature": config.answers.temperature} if by_teacher else {}),
    }
    for name, value in wanted.items():
        has = getattr(targets, name)
        if has < value if name in ("steps", "top_k") else has != value:
            yield Finding(f"params.yaml: lessons.{name}", f"{has!r}, and distill asks for {value!r}", "set both alike")
    if not config.divergence.top_k:
        yield Finding(
            "params.yaml: distill.divergence.top_k", "0 tells all tokens apart, which stored targets do not",
            f"set it to {targets.top_k} at the most",
        )  # fmt: skip
