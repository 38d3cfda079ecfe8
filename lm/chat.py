"""`tokenmill chat FOLDER`: talk to a model; a line in, an answer out as it is written, until the input ends."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from kernels.pick import pick
from lm.checkpoint import device
from lm.model import Decoder
from lm.model_folder import read_model
from lm.softcap import capped
from lm.strategies.base import PromptBatch, Strategy
from lm.strategies.named import strategy_of
from lm.temperature import COLDEST
from lm.tokenizer import Tokenizer

SHOWN = 3  # problems that the banner names


@torch.inference_mode()
def stream_tokens(
    model: Decoder, prompt: list[int], max_new_tokens: int, temperature: float, stop_id: int, seed: int
) -> Iterator[int]:
    """What follows the prompt, each token as soon as it is drawn, the stop token last where it comes. A
    temperature below COLDEST is 0.

    Raises ValueError for an empty prompt or one that leaves no room in the context.
    """
    context, where = model.config.context, model.embedding.weight.device
    if not 0 < len(prompt) < context:
        raise ValueError(f"prompts must have 1 to {context - 1} tokens; this has {len(prompt)}")
    count = min(max_new_tokens, context - len(prompt))
    divisor = temperature if temperature >= COLDEST else 0.0
    cache = model.new_cache(1, len(prompt) + count)
    logits_1V = F.linear(model.hidden(torch.tensor([prompt], device=where), cache)[:, -1], model.head_weight)
    logits_1V = capped(logits_1V, model.config.logit_softcap)
    for point in np.random.Generator(np.random.Philox(key=[seed, 0])).random(count):
        ids_1, _ = pick(logits_1V, divisor, torch.tensor([point], device=where))
        yield int(ids_1)
        if int(ids_1) == stop_id:
            return
        logits_1V = model(ids_1[:, None], cache)[:, -1]


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of the tokens, piece by piece; what is not yet a whole character waits for the next token."""
    seen: list[int] = []
    said = ""
    for token in ids:
        seen.append(token)
        text = tokenizer.decode(seen)
        if text.startswith(said) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(said) :]
            said = text
    yield tokenizer.decode(seen)[len(said) :]


def answers(
    model: Decoder,
    tokenizer: Tokenizer,
    lines: Iterable[str],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    to: TextIO,
    complete: bool = False,
    strategy: Strategy | None = None,
) -> None:
    """Write one answer a line that is not blank, each with a seed of its own; what is too long, or
    spells a control token of the model's own template, is told so.

    complete: the line is the beginning of a text that goes on, not a message in a turn. strategy: how the answer is found,
    which is then written as a whole; None: token by token at the temperature.
    """
    stop = tokenizer.eos_id if complete else tokenizer.end_id
    for turn, line in enumerate(text for line in lines if (text := line.strip())):
        try:
            prompt = [*tokenizer.before, *tokenizer.encode(line)] if complete else tokenizer.chat(line)
            if strategy is None:
                ids: Iterable[int] = stream_tokens(model, prompt, max_new_tokens, temperature, stop, seed + turn)
            else:
                ids = decode_with(strategy, model, tokenizer, prompt, max_new_tokens, seed + turn)
            for piece in stream_text(tokenizer, ids):
                to.write(piece)
                to.flush()
        except ValueError as error:
            to.write(f"({error})")
        to.write("\n")
        to.flush()


def decode_with(
    strategy: Strategy, model: Decoder, tokenizer: Tokenizer, prompt: list[int], max_new_tokens: int, seed: int
) -> list[int]:
    """Ids of the answer that a strategy finds. Raises ValueError as `stream_tokens`, and for what the model cannot do."""
    context = model.config.context
    if not 0 < len(prompt) < context:
        raise ValueError(f"prompts must have 1 to {context - 1} tokens; this has {len(prompt)}")
    strategy.check(max_new_tokens)
    (found,) = strategy(
        model, PromptBatch(tokenizer, [prompt], ["0"], min(max_new_tokens, context - len(prompt)), seed)
    )
    return found.ids


def prompt_lines() -> Iterator[str]:
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


def example_problems(folder: Path) -> list[str]:
    """Problems like those that the model was taught, of the ones its evaluation asked it; none where it was not evaluated."""
    path = next(folder.parent.glob(f"*/{folder.name}/answers.parquet"), None)
    if path is None:
        return []
    prompts = pq.read_table(path, columns=["prompt"])["prompt"].slice(0, SHOWN).to_pylist()
    return [" ".join(prompt.split())[:80] for prompt in prompts]


def banner(folder: Path, model: Decoder, complete: bool) -> str:
    """What is said before the first line."""
    how = "each line is a text to go on with" if complete else "each line is a new conversation"
    lines = [f"{folder}: {model.num_parameters():,} parameters; {how}, Ctrl-D ends"]
    if examples := example_problems(folder):
        lines.append(f"it was asked problems like {', '.join(map(repr, examples))}, and knows little else: try one")
    return "\n".join(lines)


def check_numbers(max_new_tokens: int, temperature: float, seed: int) -> None:
    """Raises ValueError, which names the option, for a number that nothing can be written by."""
    if max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens: {max_new_tokens} is no length of an answer: 1 or more")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"--temperature: {temperature:g} is none: 0 or more")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed: {seed} is none: 0 to 2^63 - 1")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tokenmill chat", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model folder")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--complete", action="store_true", help="go on with a text: for a model that never saw a turn")
    said = (
        'how answers are found: greedy, majority, or JSON such as {"name": "sample", "temperature": 0.8, "top_p": 0.9}'
    )
    parser.add_argument("--strategy", help=said)
    given = parser.parse_args()
    try:
        check_numbers(given.max_new_tokens, given.temperature, given.seed)
        strategy = strategy_of(given.strategy) if given.strategy else None
        if strategy is not None and (given.complete or given.temperature):
            raise ValueError("--strategy goes without --temperature, which it has itself, and without --complete")
        model, tokenizer = read_model(given.folder)
    except ValueError as error:
        sys.exit(f"chat: {error}")
    model.to(device())
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives input() its line editing)

        print(banner(given.folder, model, given.complete))
    answers(
        model, tokenizer, prompt_lines(), given.max_new_tokens, given.temperature, given.seed, sys.stdout, given.complete,
        strategy,
    )  # fmt: skip


if __name__ == "__main__":
    main()
