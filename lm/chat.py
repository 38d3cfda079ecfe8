"""`python -m lm.chat [FOLDER]`: talk to a model; a line in, an answer out, until the input ends."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from lm.checkpoint import device, load_model
from lm.model import Decoder
from lm.sampler import generate
from lm.tokenizer import Tokenizer


def answer(model: Decoder, tokenizer: Tokenizer, text: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """What the model answers to one message. Raises ValueError when the message leaves no room in the context."""
    (completion,) = generate(model, [tokenizer.chat(text)], max_new_tokens, temperature, tokenizer.end_id, seed, rows=1)
    return tokenizer.decode(completion.ids)


def answers(
    model: Decoder, tokenizer: Tokenizer, lines: Iterable[str], max_new_tokens: int, temperature: float, seed: int
) -> Iterator[str]:
    """One answer a line that is not blank, each with a seed of its own; a message that is too long is told so."""
    for turn, line in enumerate(text for line in lines if (text := line.strip())):
        try:
            yield answer(model, tokenizer, line, max_new_tokens, temperature, seed + turn)
        except ValueError as error:
            yield f"({error})"


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="lm.chat", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/rl"), help="a model folder")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        model, tokenizer = load_model(given.folder)
    except ValueError as error:
        sys.exit(f"chat: {error}")
    model.to(device())
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives input() its line editing)

        print(f"{given.folder}: {model.num_parameters():,} parameters; each line is a new conversation, Ctrl-D ends")
    for text in answers(model, tokenizer, asked(), given.max_new_tokens, given.temperature, given.seed):
        print(text, flush=True)


if __name__ == "__main__":
    main()
