"""Runs whose end no store has taken yet, a small file each below .scratch: the next start tells it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

FOLDER = Path(".scratch/tracking")


@dataclass(frozen=True)
class Ending:
    """How a run ended, and when, in milliseconds since 1970."""

    run: str
    status: str
    at: int


def note(store: str, ending: Ending) -> None:
    """Keep it until it is forgotten; a disk that is full is no error. `store`: its address, which may hold a password."""
    with suppress(OSError):
        folder = _of(store)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{ending.run}.json").write_text(json.dumps(asdict(ending)))


def forget(store: str, run: str) -> None:
    """Delete the note of a run whose end the store has taken."""
    with suppress(OSError):
        (_of(store) / f"{run}.json").unlink(missing_ok=True)


def noted(store: str) -> Iterator[Ending]:
    """Endings noted for this store; half a file is passed over."""
    for path in sorted(_of(store).glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            yield Ending(**json.loads(path.read_text()))


def _of(store: str) -> Path:
    return FOLDER / blake2b(store.encode(), digest_size=8).hexdigest()
