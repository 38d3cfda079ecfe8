"""Templates of the pages beside this file, filled in: every text is escaped, and a page is one file that needs nothing else."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.arena.pages.number_format import (
    format_flop,
    format_interval,
    format_measured,
    format_ratio,
    format_with_interval,
)
from tasks.report import words

HERE = Path(__file__).parent
REPORT = Path(words.__file__).parent  # its page.css is the ground of ours
FILTERS = (
    words.number, words.duration, format_ratio, format_interval, format_with_interval, format_measured, format_flop,
)  # fmt: skip


@cache
def environment() -> Environment:
    """The templates, each compiled once."""
    found = Environment(
        loader=FileSystemLoader([HERE, REPORT]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {f.__name__: f for f in FILTERS}
    return found


def render_template(name: str, **values: object) -> str:
    """The text of a template with these values in it."""
    return environment().get_template(name).render(**values)
