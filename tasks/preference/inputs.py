"""Files of pairs: there are some, and one of the first rows is a pair."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.preference.pairs.base import Rejected
from tasks.preference.pairs.files import Files, rows_of
from tasks.preference.pairs.rows import texts_of

# Rows that may be unusable at the front of a file before it is said to have none.
ROWS_TRIED = 1000


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with the files."""
    config = sections["preference"]
    for source in config.pairs:
        if isinstance(source, Files):
            yield from trouble_of(source, Path(config.folder))


def trouble_of(source: Files, folder: Path) -> Iterator[Finding]:
    """Why a file cannot be used, each by itself; nothing where all can."""
    try:
        listed = source.listed(folder)
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what)
        return
    for path in listed:
        reason = "empty"
        for found in islice(rows_of(path, path.relative_to(folder).as_posix()), ROWS_TRIED):
            told = found.reason if isinstance(found, Rejected) else texts_of(found[1])
            if not isinstance(told, str):
                break
            reason = told
        else:
            yield Finding(str(path), f"not one usable row among the first {ROWS_TRIED} ({reason})", "mend the file")
