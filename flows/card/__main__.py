"""`tokenmill card`: write the card of a model beside its export, or verify one.

make export MODEL=data/quantize TO=exported, then make card MODEL=quantize TO=exported, and make verify-card TO=exported.
"""

import argparse
import sys
from pathlib import Path

from flows.card.lineage import lineage_of
from flows.card.text import card_text
from flows.card.verify import CARD, files_of, foreign, mistakes
from lm.files import write_text
from tasks.runner.answer import add_json_option, print_json


def main() -> int:
    """Exit code: 0; 1 where a card that is verified is not true; 2 for a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="tokenmill card", description=__doc__)
    parser.add_argument("folder", type=Path, help="the exported model, in which the card is README.md")
    parser.add_argument("--model", default="", help="the stage whose model it is, or its folder: data/quantize")
    parser.add_argument("--license", default="", help="as the Hub names it, such as apache-2.0: of the model")
    parser.add_argument("--notes", type=Path, help="a Markdown file of yours that stands after the title")
    parser.add_argument("--verify", action="store_true", help="say what is not as the card in the folder says")
    parser.add_argument(
        "--alone", action="store_true", help="verify the card and its files only, without this checkout's pipeline"
    )
    add_json_option(parser)
    asked, root = parser.parse_args(), Path.cwd()
    try:
        return verify(asked.folder, None if asked.alone else root, asked.json) if asked.verify else write(asked, root)
    except (ValueError, OSError) as error:
        print(f"card: {error}", file=sys.stderr)
        return 2


def write(asked: argparse.Namespace, root: Path) -> int:
    if not asked.folder.is_dir() or not (files := files_of(asked.folder)):
        raise ValueError(
            f"{asked.folder}: no exported model: make export MODEL=data/{Path(asked.model).name} TO={asked.folder}"
        )
    notes = asked.notes.read_text() if asked.notes else ""
    lineage = lineage_of(root, Path(asked.model).name)
    if line := next(foreign(asked.folder, root, lineage.model), ""):
        raise ValueError(line)
    write_text(asked.folder / CARD, card_text(lineage, files, asked.license, notes))
    if asked.json:
        print_json({"card": asked.folder / CARD, "stages": list(lineage.stages), "files": files})
    else:
        print(f"{asked.folder / CARD}: {len(lineage.stages)} stages, {len(files)} files")
    return 0


def verify(folder: Path, root: Path | None, is_json: bool = False) -> int:
    found = list(mistakes(folder, root))
    for line in found:
        print(f"card: {line}", file=sys.stderr)
    if is_json:
        print_json({"card": folder / CARD, "alone": root is None, "mistakes": found})
    elif not found:
        print(f"{folder / CARD}: is true{'' if root else ' of itself and its files'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
