"""Whether a card is true: of itself, of the files beside it, and, in the checkout that made it, of the pipeline."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from flows.card.lineage import lineage_of
from flows.card.text import SEAL, digest_of, figures_in

CARD = "README.md"
SEALED = re.compile(re.escape(SEAL).replace(re.escape("{}"), "([0-9a-f]{64})") + r"\Z")
FILE = re.compile(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
MADE = re.compile(r"^\| `([^`]+)` \| `([0-9a-f]{32}(?:\.dir)?)` \|$", re.MULTILINE)
TITLE = re.compile(r"^# (\S+)$", re.MULTILINE)


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of the folder but the card, by its path there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mistakes(folder: Path, root: Path | None) -> Iterator[str]:
    """What is not as the card in the folder says, a line each. root: the checkout whose pipeline it is held to; None: to none.
    Raises ValueError where there is no card."""
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{path}: no such card: make card MODEL=... TO={folder}")
    text = path.read_text()
    seal = SEALED.search(text)
    if not seal:
        yield f"{path}: does not end with its digest: it is cut off, or no card of tokenmill"
        return
    if digest_of(text[: seal.start()]) != seal[1]:
        yield f"{path}: was changed after it was written"
    said, there = dict(FILE.findall(text)), files_of(folder)
    for name in sorted(said.keys() | there.keys()):
        if name not in there:
            yield f"{folder / name}: is in the card and not there"
        elif name not in said:
            yield f"{folder / name}: is not in the card"
        elif said[name] != there[name]:
            yield f"{folder / name}: is not the file that the card names"
    if root is not None:
        yield from beside_the_pipeline(path, text, root)


def beside_the_pipeline(path: Path, text: str, root: Path) -> Iterator[str]:
    """What the pipeline of a checkout says otherwise: scores, and digests of what the model is made of."""
    title = TITLE.search(text)
    try:
        lineage = lineage_of(root, title[1] if title else "")
        said = figures_in(text)
    except ValueError as error:
        yield f"{path}: cannot be held to this checkout: {error}"
        return
    for name, value in said.items():
        if lineage.scores.get(name) != value:
            yield f"{path}: {name} is {value}, and this checkout's evaluation has {lineage.scores.get(name)}"
    made = dict(MADE.findall(text))
    for name in sorted(made.keys() | lineage.made.keys()):
        if made.get(name) != lineage.made.get(name):
            yield f"{path}: {name} has another digest in this checkout's dvc.lock"
