"""`tokenmill preset --depth 12`: write presets/d12.yaml, whose numbers follow from a depth by the rules of
flows/params/dial.py."""

import argparse
import re
import sys
from pathlib import Path

from flows.params.dial import Dialled, dialled, text_of
from lm.config import ConfigError
from lm.files import write_text
from tasks.runner.answer import add_json_option, print_json

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def written(root: Path, dial: Dialled, name: str, given: str) -> tuple[Path, bool]:
    """(the preset's file, which says this now; whether it was written). given: the words that it was made of. Raises
    ConfigError for a name that is none, and where the file is there and says something else."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"NAME: {name!r}: small letters, digits, - and _")
    path, text = root / "presets" / f"{name}.yaml", text_of(dial, name, given)
    if path.exists():
        if path.read_text() == text:
            return path, False
        raise ConfigError(f"NAME: presets/{name}.yaml is there and says otherwise: give another NAME, or remove it")
    write_text(path, text)
    return path, True


def whole(text: str) -> int:
    """A whole number above 0, as in 2500000000 or 2.5e9."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 1 <= number < 1e15 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(number)


def main() -> int:
    """Exit code: 0, or 2 for what no preset can be made of and for another file of that name."""
    parser = argparse.ArgumentParser(prog="tokenmill preset", description=__doc__)
    parser.add_argument("--depth", type=whole, required=True, help="layers, from which all else follows")
    parser.add_argument("--tokens", type=whole, help="of pretraining: 2.5e9; 20 for each weight when absent")
    parser.add_argument("--name", help="of the preset; d and the depth when absent")
    add_json_option(parser)
    asked = parser.parse_args()
    try:
        dial = dialled(asked.depth, asked.tokens)
        given = f"DEPTH={asked.depth}" if asked.tokens is None else f"DEPTH={asked.depth} TOKENS={asked.tokens}"
        path, new = written(Path.cwd(), dial, asked.name or f"d{asked.depth}", given)
    except ConfigError as error:
        print(f"preset: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print_json({"preset": path.stem, "written": new, "steps": dial.steps, **dial._asdict()})
        return 0
    print(
        f"presets/{path.name}: {'written' if new else 'says this already'}: {dial.width} wide, {dial.steps:,} steps of "
        f"{dial.tokens_per_step:,} tokens; make plan PRESET={path.stem}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
