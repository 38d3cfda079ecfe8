"""What the rules ask of ingest: that there are the sources that they are kept to."""

from collections.abc import Iterator

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.filter.stage import SLOTS


def contracts(sections: Sections) -> Iterator[Finding]:
    """Rules kept to sources that are not there: they would judge nothing, without a word."""
    there = [source.called for source in sections["ingest"].sources]
    for slot in SLOTS:
        asked = getattr(sections["filter"], slot).sources
        unknown = [label for label in asked or [] if label not in there]
        if unknown or asked == []:
            what = (
                "no source is labelled " + ", ".join(map(repr, unknown)) if unknown else "is empty: nothing is judged"
            )
            remedy = f"name some of {', '.join(there)}, or have it for all: filter.{slot}.sources=null"
            yield Finding(f"params.yaml: filter.{slot}.sources", what, remedy)
