"""How many unseen problems a model answers, with the interval that the number of problems allows."""

import math
import time
from dataclasses import dataclass

from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import ROWS, generate
from lm.tokenizer import Tokenizer


def wilson(right: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927); (0, 1) when there is nothing to count."""
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # at the ends the two terms are equal, and rounding must not leave 1e-19 between them
    low = 0.0 if right == 0 else max(0.0, middle - half)
    return low, 1.0 if right == total else min(1.0, middle + half)


@dataclass(frozen=True)
class Answer:
    example: Example
    completion: str
    score: Score


def answer_all(
    model: Decoder,
    tokenizer: Tokenizer,
    verifier,
    examples: list[Example],
    max_new_tokens: int,
    progress,
    batch: int = 4 * ROWS,
) -> tuple[list[Answer], float]:
    """Greedy answers in the order of the examples, and the tokens a second it took to write them. An answer depends on its
    problem alone: not on the others, their order, or how many go in a batch, after each of which progress is told.

    A prompt that leaves no room in the context is scored as an empty answer: the model could not have answered it.
    """
    prompts = [tokenizer.chat(e.prompt) for e in examples]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < model.config.context]
    fits.sort(key=lambda i: (len(prompts[i]), i))  # alike lengths are read together
    texts, tokens, began = [""] * len(examples), 0, time.monotonic()
    for start in range(0, len(fits), batch):
        group = fits[start : start + batch]
        for i, c in zip(
            group, generate(model, [prompts[i] for i in group], max_new_tokens, 0.0, tokenizer.end_id, 0), strict=True
        ):
            texts[i] = tokenizer.decode(c.ids)
            tokens += len(c.ids)
        progress(start + len(group), len(fits), "problem")
    rate = tokens / (time.monotonic() - began)
    return [Answer(e, text, verifier.score(e, text)) for e, text in zip(examples, texts, strict=True)], rate
