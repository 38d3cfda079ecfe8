"""What evaluation asks of its problems and of each model: prompts that leave room for answers."""

from collections.abc import Iterator

from lm.shape import MASKED
from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room, check_split
from tasks.about.sections import Sections
from tasks.core.config import MODELS
from tasks.evaluate.bound import token_by_token
from tasks.evaluate.tasks import Needle


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of evaluate ask of others and that does not hold."""
    config = sections["evaluate"]
    for model in sections.params.get(MODELS, []):
        yield from check_split(config.problems, "test", sections.shape(model).tokens)
        key = "evaluate.max_new_tokens"
        yield from check_room(key, config.problems, ("test",), config.max_new_tokens, sections, model)
        for place, one in enumerate(config.sets):
            where = f"evaluate.sets.{place}"
            if not one.problems.examples("test"):
                yield Finding(f"params.yaml: {where}", "its test split has no problem", "put more into its folder")
            most = one.max_new_tokens or config.max_new_tokens
            yield from check_room(where, one.problems, ("test",), most, sections, model)
        if not sections.shape(model).causal:
            for name in token_by_token(config):
                yield Finding(
                    f"params.yaml: evaluate.{name}", f"{model}: {MASKED}, and has no likelihood", "leave it out"
                )
        context = sections.shape(model).context
        for place, task in enumerate(config.tasks):
            if isinstance(task, Needle) and task.length > context:
                yield Finding(
                    f"params.yaml: evaluate.tasks.{place}.length",
                    f"{task.length} is more than the context of {model}, {context}",
                    f"lower it, or raise {sections.key(model, 'context')}",
                )
