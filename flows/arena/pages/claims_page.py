"""The page of all claims: from the text of claims.jsonl one HTML file with a table, a forest plot and counts of verdicts."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from flows.arena.pages import claims as rows
from flows.arena.pages import forest
from flows.arena.pages.records import Claim, read_claims
from flows.arena.pages.templates import render_template

Lane = tuple[Claim, Markup]


def page(
    text: str,
    links: Mapping[str, str] | None = None,
    unclaimed: Mapping[str, Sequence[str]] | None = None,
    unmeasured: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page of the claims whose rows have this text; the same rows in any order give the same page. Raises ValueError.

    links: the page of each study, relative to this one; a study that is not there is named without a link.
    unclaimed: methods by room that no claim is of. unmeasured: claims by study that have no row, as it has not been held yet.
    """
    claims = read_claims(text)
    lanes, scale, arrows = ratios(claims)
    return render_template(
        "claims.html",
        claims=claims,
        counts=rows.counts(claims),
        rooms=sorted({claim.room for claim in claims}),
        kind=forest.kind,
        quantity=rows.quantity,
        sizes=rows.sizes,
        links={study: rows.address(link) for study, link in (links or {}).items()},
        lanes=lanes,
        scale=scale,
        arrows=arrows,
        machines=rows.machines(claims),
        unclaimed=unclaimed or {},
        unmeasured=unmeasured or {},
        unmeasured_sentence=rows.unmeasured_sentence(unmeasured or {}).strip().replace("`", ""),
    )


def ratios(claims: list[Claim]) -> tuple[dict[str, list[Lane]], Markup, bool]:
    """Lanes of the forest plot by room, all on one axis; the axis' labels; whether an arrow stands for what lies beyond it."""
    rooms = rows.by_room(claims)
    marks = {room: [_mark(claim) for claim in found] for room, found in rooms.items()}
    every = [mark for found in marks.values() for mark in found]
    on = forest.axis(every)
    lanes = {
        room: [(claim, Markup(forest.lane(mark, on))) for claim, mark in zip(found, marks[room], strict=True)]
        for room, found in rooms.items()
    }
    return lanes, Markup(forest.scale(on)), forest.left_out(every, on)


def _mark(claim: Claim) -> forest.Mark:
    return forest.Mark(claim.method, claim.ratio or 0.0, claim.t, claim.bootstrap, claim.verdict)
