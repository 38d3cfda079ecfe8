"""`python -m lm.chat [FOLDER]`: talk to a model; a line in, an answer out as it is written, until the input ends."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow.parquet as pq

from lm.checkpoint import device, load_model
from lm.model import Decoder
from lm.sampler import generate
from lm.tokenizer import Tokenizer

SHOWN = 3  # problems that the banner names


class Written:
    """Prints an answer token by token; what is not yet a whole character waits for the next token."""

    def __init__(self, tokenizer: Tokenizer, to: TextIO) -> None:
        self._tokenizer, self._to = tokenizer, to
        self._ids: list[int] = []
        self.text = ""

    def __call__(self, place: int, token: int) -> None:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._print(text)

    def end(self) -> None:
        """Print what still waits."""
        self._print(self._tokenizer.decode(self._ids))

    def _print(self, text: str) -> None:
        if text.startswith(self.text):
            self._to.write(text[len(self.text) :])
            self._to.flush()
            self.text = text


def answers(
    model: Decoder,
    tokenizer: Tokenizer,
    lines: Iterable[str],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    to: TextIO,
    complete: bool = False,
) -> None:
    """Write one answer a line that is not blank, each with a seed of its own; what is too long is told so.

    complete: the line is the beginning of a text that goes on, not a message in a turn.
    """
    stop = tokenizer.eos_id if complete else tokenizer.end_id
    for turn, line in enumerate(text for line in lines if (text := line.strip())):
        prompt = tokenizer.encode(line) if complete else tokenizer.chat(line)
        written = Written(tokenizer, to)
        try:
            generate(model, [prompt], max_new_tokens, temperature, stop, seed + turn, rows=1, heard=written)
            written.end()
        except ValueError as error:
            to.write(f"({error})")
        to.write("\n")
        to.flush()


def asked() -> Iterator[str]:
    """Lines typed at a prompt on a terminal, else the lines of the input, until it ends."""
    if not sys.stdin.isatty():
        yield from (line.decode(errors="replace") for line in sys.stdin.buffer)
        return
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def taught(folder: Path) -> list[str]:
    """Problems like those that the model was taught, of the ones its evaluation asked it; none where it was not evaluated."""
    path = folder.parent / "evaluate" / folder.name / "answers.parquet"
    if not path.exists():
        return []
    prompts = pq.read_table(path, columns=["prompt"])["prompt"].slice(0, SHOWN).to_pylist()
    return [" ".join(prompt.split())[:80] for prompt in prompts]


def banner(folder: Path, model: Decoder, complete: bool) -> str:
    """What is said before the first line."""
    how = "each line is a text to go on with" if complete else "each line is a new conversation"
    lines = [f"{folder}: {model.num_parameters():,} parameters; {how}, Ctrl-D ends"]
    if examples := taught(folder):
        lines.append(f"it was asked problems like {', '.join(map(repr, examples))}, and knows little else: try one")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chat", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/rl"), help="a model folder")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--complete", action="store_true", help="go on with a text: for a model that never saw a turn")
    given = parser.parse_args()
    try:
        model, tokenizer = load_model(given.folder)
    except ValueError as error:
        sys.exit(f"chat: {error}")
    model.to(device())
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives input() its line editing)

        print(banner(given.folder, model, given.complete))
    answers(model, tokenizer, asked(), given.max_new_tokens, given.temperature, given.seed, sys.stdout, given.complete)


if __name__ == "__main__":
    main()
