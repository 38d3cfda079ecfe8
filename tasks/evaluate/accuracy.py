"""How many unseen problems a model answers, with the interval that the number of problems allows."""

import time
from dataclasses import dataclass

from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import ROWS, generate
from lm.tokenizer import Tokenizer
from lm.unmasking import truncate_at_stop, unmask


@dataclass(frozen=True)
class Answer:
    example: Example
    completion: str
    score: Score


def greedy(model: Decoder, prompts: list[list[int]], max_new_tokens: int, stop_id: int) -> list[list[int]]:
    """The likeliest token again and again, up to the stop token; of a model of masked diffusion the most confident one of all
    that are masked yet."""
    if model.config.causal:
        return [found.ids for found in generate(model, prompts, max_new_tokens, 0.0, stop_id, 0)]
    return [truncate_at_stop(ids, stop_id) for ids in unmask(model, prompts, max_new_tokens, max_new_tokens, 0)]


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
        found = greedy(model, [prompts[i] for i in group], max_new_tokens, tokenizer.end_id)
        for i, ids in zip(group, found, strict=True):
            texts[i] = tokenizer.decode(ids)
            tokens += len(ids)
        progress(start + len(group), len(fits), "problem")
    rate = tokens / (time.monotonic() - began)
    return [Answer(e, text, verifier.score(e, text)) for e, text in zip(examples, texts, strict=True)], rate
