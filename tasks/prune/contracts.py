"""What pruning asks of its model: as much of everything as is to stay, and a context for what it calibrates with."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room
from tasks.about.prompts import check_bare
from tasks.about.sections import Sections


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of prune ask of others and that does not hold."""
    yield from check_bare(sections, "prune")
    config, start = sections["prune"], sections.start_shape("prune")
    for name in ("layers", "heads", "ffn_width"):
        asked, there = getattr(config, name), getattr(start, name)
        if asked > there:
            yield Finding(
                f"params.yaml: prune.{name}",
                f"{asked} is more than the model's {there}",
                f"lower it, or keep more in {config.model}",
            )
    if config.heads and start.heads > start.kv_heads and config.heads % start.kv_heads:
        yield Finding(
            "params.yaml: prune.heads",
            f"{config.heads} is no multiple of the model's {start.kv_heads} key/value heads",
            "take one that is",
        )
    few = config.calibration
    if few.problems:
        key = "prune.calibration.max_new_tokens"
        yield from check_room(key, config.problems, ("sft",), few.max_new_tokens, sections, config.model)
