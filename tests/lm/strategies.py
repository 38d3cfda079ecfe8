"""Models whose greedy answers differ and end at different times, and what strategies are asked of them in tests."""

from pathlib import Path

import torch

from lm.checkpoint import save_model
from lm.model import Decoder
from lm.strategies.base import PromptBatch
from tests.lm.models import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
END, CONTEXT, MOST = TOKENIZER.end_id, 96, 10
LENGTHS = (2, 3, 15, 16, 17, 30, 60, 81, 90)  # the last leave less room than there are tokens, or than a draft needs
PROMPTS = [[(5 * length + 3 * place) % 97 for place in range(length)] for length in LENGTHS]


def lively(seed: int, scale: float = 6.0, **shape: object) -> Decoder:
    """A model whose distributions are far from uniform and turn on all that was read. It ends once in some ten tokens."""
    model = toy_model(seed=seed, **{"context": CONTEXT, "tied": False, **shape})
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(scale)
        model.head.weight[END].mul_(2)
    return model


MODEL = lively(1)


def asked(prompts: list[list[int]] = PROMPTS, seed: int = 0, most: int = MOST) -> PromptBatch:
    """These prompts, each named by what it is; the value of a text is its length in characters, odd ones have none."""
    names = [str(prompt) for prompt in prompts]
    return PromptBatch(
        TOKENIZER, prompts, names, most, seed, lambda place, text: None if len(text) % 2 else float(len(text))
    )


def saved(name: str, model: Decoder) -> None:
    """A model as data/assistants has it, below the folder in which a test stands."""
    folder = Path("data/assistants", name)
    folder.mkdir(parents=True)
    save_model(folder, model, TOKENIZER)


def without_cache(logits_of, prompt: list[int], most: int, stop_id: int = END) -> list[int]:
    """The likeliest token again and again: logits_of gives the logits of what follows some ids."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most and (len(ids) == len(prompt) or ids[-1] != stop_id):
        with torch.no_grad():
            ids.append(int(logits_of(torch.tensor([ids])).argmax()))
    return ids[len(prompt) :]
