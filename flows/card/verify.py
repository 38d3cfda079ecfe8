"""Whether a card is true: of itself, of the files beside it, and, in the checkout that made it, of the pipeline."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from flows.card.lineage import Lineage, lineage_of
from flows.card.text import SEAL, digest_of, measures, scores_in_front_matter, sections, table
from lm.hugging_face.provenance import digest_of as digest_of_model
from lm.hugging_face.provenance import read_provenance, sha256_of

CARD = "README.md"
SEALED = re.compile(re.escape(SEAL).replace(re.escape("{}"), "([0-9a-f]{64})") + r"\Z")
FILE = re.compile(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
MADE = re.compile(r"^\| `([^`]+)` \| `([0-9a-f]{32}(?:\.dir)?)` \|$", re.MULTILINE)
TITLE = re.compile(r"^# (\S+)$", re.MULTILINE)
TOOK = re.compile(r" \| [^|]*\|$")
WEIGHTS = (".safetensors", ".gguf")
FILES = table(["file", "sha256"], [])


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of the folder but the card, by its path there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}


def foreign(folder: Path, root: Path, model: str) -> Iterator[str]:
    """Weights of an export that are not known to be those of this checkout's model, a line each. Raises ValueError where the
    model's own weights are not there."""
    weights = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS and path.is_file())
    anew = f"make export MODEL=data/{model} TO={folder}"
    if not weights:
        yield f"{folder}: there are no weights in it: {anew}"
        return
    of = digest_of_model(root / "data" / model)
    for path in weights:
        own, source = read_provenance(path.parent).get(path.name, ("", ""))
        if not own:
            yield f"{path}: nothing says what it was made of: {anew}"
        elif own != sha256_of(path):
            yield f"{path}: is not as it was exported: {anew}"
        elif source != of:
            yield f"{path}: was made of other weights than those in data/{model}: {anew}"


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
        yield from beside_the_pipeline(path, text[: seal.start()], root)


def beside_the_pipeline(path: Path, text: str, root: Path) -> Iterator[str]:
    """What the pipeline of a checkout says otherwise: the weights beside the card, scores, what is told of size, data and
    training, and digests of what the model is made of. text: the card's, without its own digest."""
    title = TITLE.search(text)
    try:
        lineage = lineage_of(root, title[1] if title else "")
        said = scores_in_front_matter(text)
        yield from foreign(path.parent, root, lineage.model)
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
    yield from unlike(path, text, lineage)


def unlike(path: Path, text: str, lineage: Lineage) -> Iterator[str]:
    """What of the text that people read is not this checkout's, the first line of each section. Not held to it are notes, the
    revision, and how long a stage took, which a run that makes the same may change; digests are named by who calls this."""
    begins = f"# {lineage.model}\n\n{measures(lineage)} "
    if not text.partition("\n---\n\n")[2].startswith(begins):
        yield f"{path}: does not begin with {measures(lineage)!r}, which this checkout has of {lineage.model}"
    rest = text.strip()
    for title, own in reversed({**sections(lineage), "Files": FILES}.items()):
        rest, _, said = rest.rpartition(f"\n\n## {title}\n\n")
        for mine, other in zip_longest(compared(title, own), compared(title, said), fillvalue=""):
            if mine != other:
                yield f"{path}: {title}: {other!r} is {mine!r} in this checkout"
                break


def compared(title: str, section: str) -> list[str]:
    """Lines of a section, without those of digests, and of Training without the last cell."""
    lines = [line for line in section.strip().split("\n") if not FILE.match(line) and not MADE.match(line)]
    return [TOOK.sub("", line) for line in lines] if title == "Training" else lines
