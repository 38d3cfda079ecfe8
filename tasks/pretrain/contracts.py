"""What pretrain asks of tokenize and curriculum: a row for every token, a context for every sequence, rows that divide."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.about.training import check_shards
from tasks.core.config import ConfigError
from tasks.pretrain.needs import smaller
from tasks.pretrain.objectives import Salt
from tasks.pretrain.objectives.salt import check as check_small
from tasks.pretrain.starts.base import Grown


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of pretrain ask of others and that does not hold."""
    yield from vocabulary(sections)
    config, length, context = sections["pretrain"], sections.plan_length(), sections.shape("pretrain").context
    if length > context:
        yield Finding(
            f"params.yaml: {sections.key('pretrain', 'context')}",
            f"a context of {context} is shorter than the plan's sequences of {length} tokens",
            f"make it {length}, or lower {sections.plan_key()}",
        )
    yield from fits(sections)
    yield from taught(sections)
    yield from grows(sections)
    yield from windows(sections)
    plan = sections["curriculum"]
    rows = max(1, plan.tokens_per_step // length // 2**plan.ramp.doublings)  # of the smallest step
    yield from check_shards("curriculum.tokens_per_step", config, rows)


def fits(sections: Sections) -> Iterator[Finding]:
    """The model is one that begins as the smaller one in checkpoint.folder, where it is to. A folder that cannot be read is
    preflight's to find."""
    start, folder = sections["pretrain"].start, sections.checkpoint_folder()
    if not isinstance(start, Grown):
        return
    shape = sections.shape("pretrain")
    try:
        small = smaller(folder)
    except ValueError:
        return
    try:
        start.check(small.model_copy(update={"vocab_size": shape.vocab_size}), shape)
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what, f"change it, or the smaller model in {folder}")


def taught(sections: Sections) -> Iterator[Finding]:
    """The small model that teaches is one that can. A folder that cannot be read is preflight's to find."""
    if not isinstance(sections["pretrain"].objective, Salt):
        return
    folder = sections.checkpoint_folder()
    try:
        small = smaller(folder)
    except ValueError:
        return
    try:
        check_small(small, sections.shape("pretrain"), sections.plan_length())
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what, f"change it, or the smaller model in {folder}")


def windows(sections: Sections) -> Iterator[Finding]:
    """Windows that are to grow are there, and are whole before the end. A plan without a step is the curriculum's to find."""
    plan = sections["curriculum"]
    try:
        steps = int(plan.ramp.cuts(plan.tokens // plan.tokens_per_step).sum())
    except ConfigError:
        return
    try:
        sections["pretrain"].window_warmup.check(sections.shape("pretrain"), steps)
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what, "lower it, or give the model windows")


def grows(sections: Sections) -> Iterator[Finding]:
    """The model is one that can grow as it is to, in steps that have as many tokens each."""
    growth = sections["pretrain"].growth
    if not growth.grows:
        return
    if sections["curriculum"].ramp.doublings:
        yield Finding(
            "params.yaml: pretrain.growth",
            f"{growth.name} counts FLOP by steps of as many tokens each, and curriculum.ramp makes the first ones smaller",
            "set pretrain.growth to {name: whole}, or curriculum.ramp.doublings to 0",
        )
    try:
        growth.check(sections.shape("pretrain"))
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what, "change it, or the model")


def vocabulary(sections: Sections) -> Iterator[Finding]:
    """The model has a row for every token: as many as the tokenizer will have, or 0, which takes them from it."""
    config, method = sections["pretrain"], sections["tokenize"].method
    if config.start.name == "hugging_face":
        if method.name != "hugging_face":
            yield Finding(
                "params.yaml: tokenize.method.name",
                f"{method.name}, but pretrain.start takes a model that has tokens of its own",
                "use hugging_face for both",
            )
        return
    asked, has = config.model.vocab_size, config.model.rows(sections.corpus_vocabulary())
    if asked not in (0, has):
        yield Finding(
            "params.yaml: pretrain.model.vocab_size", f"{asked}, but tokenize.method {method.name} makes {has}", "use 0"
        )
