"""What the page of claims and docs/claims.md both say: counts of verdicts, rooms, machines, and words of a row."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from flows.arena.pages.findings import VALUE, plain
from flows.arena.pages.records import Claim
from tasks.report.words import ABSENT, number

VERDICTS = ("shown", "not shown at this size", "contradicted", "cannot be shown here")
UNKNOWN = "unknown machine"


def counts(claims: Iterable[Claim]) -> list[tuple[str, int]]:
    """Each verdict with how many claims have it, those of VERDICTS first and all of them, any other after by name."""
    found = Counter(claim.verdict for claim in claims)
    return [(name, found[name]) for name in [*VERDICTS, *sorted(set(found) - set(VERDICTS))]]


def machines(claims: Iterable[Claim]) -> list[tuple[str, int]]:
    """Each machine with how many rows are its own, most rows first, then by name."""
    found = Counter(claim.machine or UNKNOWN for claim in claims)
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def by_room(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """The claims that have a ratio, by room."""
    rooms: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.ratio is not None:
            rooms.setdefault(claim.room, []).append(claim)
    return rooms


def unmeasured_sentence(unmeasured: Mapping[str, Sequence[str]]) -> str:
    """A sentence on the claims without a row, by study, to stand behind the counts; "" where there are none."""
    count = sum(map(len, unmeasured.values()))
    return f" {count} more {'has' if count == 1 else 'have'} no row yet: `make claims` holds them." if count else ""


def quantity(claim: Claim) -> str:
    """What the ratio is of, "" of the study's measure."""
    return "" if claim.quantity == VALUE else plain(claim.quantity)


def sizes(claim: Claim) -> list[str]:
    """`512,000 parameters` and `300,000 tokens`, without what is not known; `-` where neither is."""
    known = [(claim.parameters, "parameters"), (claim.tokens, "tokens")]
    return [f"{number(count)} {what}" for count, what in known if count is not None] or [ABSENT]


def address(link: str) -> str:
    """A relative address as HTML and Markdown take it; a scheme in it leads nowhere."""
    return quote(link, safe="/.-_#")
