"""docs/claims.md: the rows of claims.jsonl as a Markdown table, in an order that does not depend on when they were
measured."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from flows.arena.pages import claims as rows
from flows.arena.pages.number_format import format_flop, format_interval, format_ratio
from flows.arena.pages.records import Claim, read_claims
from tasks.report.words import ABSENT, duration, number, pluralize

HEAD = ("method", "room", "paper's figure", "ours", "size", "seeds", "cost", "verdict", "study")
SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")
ABOUT = """# Claims

What papers say of the methods here, and what `make claims` found on one machine at small size. It writes this page from
`benchmarks/results/claims.jsonl`: a verdict is computed from the intervals, never typed. A number such as 002-194 before a
paper's authors is its id in the list of 359 papers that this project began with; `claims.yaml` has it as `paper`.
"""
RATIOS = """A ratio is the method's to that of its study's baseline, over pairs of the same seed; below 1 is less. In brackets
its interval (98% unless its study says another) by Student's t, and by the bootstrap. It is of what the study measures at
its budget, where nothing else is said.
"""


def markdown(
    text: str,
    links: Mapping[str, str] | None = None,
    unclaimed: Mapping[str, Sequence[str]] | None = None,
    unmeasured: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page of the claims whose rows have this text; the same rows in any order give the same page. Raises ValueError.

    links: an address for each study, relative to docs/; a study that is not there is named without a link.
    unclaimed: methods by room that no claim is of. unmeasured: claims by study that have no row, as it has not been held yet.
    """
    claims = read_claims(text)
    found = {study: rows.address(link) for study, link in (links or {}).items()}
    if not claims:
        return f"{ABOUT}\nThere is no claim yet.\n"
    total = ", ".join(f"{count or 'none'} {verdict}" for verdict, count in rows.counts(claims))
    table = [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(claim, found)) for claim in claims)]
    measured = [f"* {plain(name)}: {pluralize(count, 'row')}" for name, count in rows.machines(claims)]
    parts = [
        ABOUT,
        f"Of {pluralize(len(claims), 'claim')}: {plain(total)}.{rows.unmeasured_sentence(unmeasured or {})}\n",
        "\n".join(table) + "\n",
        RATIOS,
        "\n".join(["Measured on", "", *measured]) + "\n",
    ]
    parts += _listed("Not held yet: claims by the study that would hold them", unmeasured)
    parts += _listed("Not held yet: methods without an entry in `claims.yaml`", unclaimed)
    return "\n".join(parts)


def _listed(title: str, groups: Mapping[str, Sequence[str]] | None) -> list[str]:
    """A part of the page with the names of each group on a line; none where there are no groups."""
    lines = [f"* {plain(group)}: {plain(', '.join(names))}" for group, names in (groups or {}).items()]
    return ["\n".join([title, "", *lines]) + "\n"] if lines else []


def plain(text: str) -> str:
    """The text as Markdown that shows it: no tag, no link, no cell and no emphasis comes of what it says."""
    return SPECIAL.sub(r"\\\1", escape(text, quote=False))


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(claim: Claim, links: dict[str, str]) -> list[str]:
    told = ", ".join(part for part in (claim.paper, claim.source) if part)
    paper = f" ({plain(told)})" if told else ""
    study = plain(claim.study) if claim.study else ABSENT
    return [
        plain(claim.method),
        plain(claim.room),
        (plain(claim.headline) or ABSENT) + paper,
        plain(_ours(claim)),
        ", ".join(rows.sizes(claim)),
        number(claim.seeds),
        ABSENT if claim.seconds is None else f"{duration(claim.seconds)}, {format_flop(claim.flop)}",
        plain(claim.verdict + (f": {claim.why}" if claim.why else "")),
        f"[{study}]({links[claim.study]})" if claim.study and claim.study in links else study,
    ]


def _ours(claim: Claim) -> str:
    """Ratio with both intervals, what it is of, and the control that it must beat."""
    if claim.ratio is None:
        return ABSENT
    kinds = [
        f"{name}{format_interval(ends)}" for name, ends in (("", claim.t), ("bootstrap ", claim.bootstrap)) if ends
    ]
    control = f", control {claim.control}" if claim.control else ""
    ends = f" ({'; '.join(kinds)})" if kinds else ""
    of = f" of {rows.quantity(claim)}" if rows.quantity(claim) else ""
    return f"{format_ratio(claim.ratio)}{ends}{of}{control}"
