"""SET="a.b=1 c={name: x, of: y}" into its assignments: what stands between brackets or quotes stays together."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from flows.params.compose import CURRENT

OPEN, CLOSE, QUOTES = "{[(", "}])", "'\""
# A quote opens where a value of YAML begins; elsewhere it is a letter, as in it's.
BEFORE_A_QUOTE = " \t\n={[,:"


def assignments(text: str) -> list[str]:
    """The pieces that white space separates outside of brackets and quotes; what is never closed is one piece to the end."""
    pieces, piece, depth, quote, escaped = list[str](), "", 0, "", False
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            # in YAML a backslash escapes within " alone, and '' is a quote within '
            escaped = (letter == "\\" and quote == '"') or (
                letter == quote == "'" and text[place + 1 : place + 2] == "'"
            )
            quote = "" if letter == quote and not escaped else quote
        elif letter in QUOTES and (not piece or piece[-1] in BEFORE_A_QUOTE):
            quote = letter
        elif letter in OPEN:
            depth += 1
        elif letter in CLOSE:
            depth -= 1
        elif letter.isspace() and depth <= 0:
            pieces.append(piece)
            piece, depth = "", 0
            continue
        piece += letter
    return [piece for piece in [*pieces, piece] if piece]


def take_words(parser: ArgumentParser) -> None:
    """The words that choose parameters and stages, for each command that has them: `preset`, `set`, `targets`."""
    parser.add_argument("--preset", default=CURRENT, help="a file of presets/; params.yaml as it is when absent")
    parser.add_argument(
        "--set", nargs="*", action=Split, split=assignments, default=[], help='as in "rl.steps=50 seed=1"'
    )
    parser.add_argument(
        "--targets", nargs="*", action=Split, split=str.split, default=[], help="stages; all when absent"
    )


class Split(Action):
    """Each argument may hold several: `make` hands a word on as one. An option that is given again adds to what it had."""

    def __init__(self, *arguments: Any, split: Callable[[str], list[str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.split = split

    def __call__(self, _parser: ArgumentParser, namespace: Namespace, values: Any, _option: str | None = None) -> None:
        # the default itself until the option is first met; it is never changed in place, as every parse has the same list
        before = getattr(namespace, self.dest)
        kept = [] if before is self.default else before
        setattr(namespace, self.dest, [*kept, *(piece for value in values for piece in self.split(value))])
