"""What the plan asks of its own numbers: a step holds a sequence, there is a step, and a ramp has whole ones."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of curriculum ask of others and that does not hold."""
    config, length = sections["curriculum"], sections.plan_length()
    per_step = config.tokens_per_step
    if per_step < length:
        yield Finding(
            "params.yaml: curriculum.tokens_per_step",
            f"{per_step} is less than one sequence of {length}",
            f"raise it to {length}",
        )
    elif not hasattr(config.method, "sequence_length") and per_step % length:
        yield Finding(
            "params.yaml: curriculum.tokens_per_step",
            f"{per_step} is no multiple of curriculum.method.max_length {length}",
            f"use {per_step // length * length}",
        )
    if config.tokens < per_step:
        yield Finding(
            "params.yaml: curriculum.tokens", f"{config.tokens} is less than one step of {per_step}", "raise it"
        )
        return
    try:
        config.ramp.cuts(config.tokens // per_step)
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what, "raise it, or lower curriculum.ramp.doublings")
    if per_step // length % (parts := 2**config.ramp.doublings):
        yield Finding(
            "params.yaml: curriculum.ramp.doublings",
            f"{per_step // length} sequences a step cannot be divided into {parts} steps",
            "lower it, or change curriculum.tokens_per_step",
        )
