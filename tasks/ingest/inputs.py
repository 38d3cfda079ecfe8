"""The sources of text: each lists its files, and one of the first rows is a document."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.ingest.sources.base import Rejected
from tasks.ingest.stage import check_python

# Rows that may be unusable at the front of a source before it is said to have none.
ROWS_TRIED = 1000


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with the sources. Raises ConfigError for another Python than the one whose library is a source."""
    config = sections["ingest"]
    check_python(config)
    for source in config.sources:
        if not source.endless:
            yield from trouble_of(source, config.folder)


def trouble_of(source: Any, folder: str) -> Iterator[Finding]:
    """Why the source cannot be used; nothing where it can."""
    where = f"params.yaml: ingest.sources: {source.called}"
    try:
        files = source.files(folder)
        rejected = 0
        for found in chain.from_iterable(source.read(file, 0) for file in files):
            if not isinstance(found, Rejected) and found.num_rows:
                return
            rejected += 1
            reason = found.reason if isinstance(found, Rejected) else "empty"
            if rejected == ROWS_TRIED:
                break
    except ConfigError as error:
        yield Finding(where, str(error).partition(": ")[2].removeprefix(f"{source.called}: "))
        return
    except OSError as error:
        yield Finding(
            f"{where}: {error.filename or folder}", f"cannot be read: {error.strerror or error}", "make it readable"
        )
        return
    why = f" ({reason})" if rejected else ""
    yield Finding(
        f"{where}: {files[0].name}{' and what follows it' if len(files) > 1 else ''}",
        f"not one usable row among the first {rejected}{why}",
        "mend the file, or the source's fields",
    )
