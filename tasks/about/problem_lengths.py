"""How long prompts and answers of the problem set will be, in tokens, before there is a tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from torch import Tensor

from lm.model import ModelConfig
from lm.problems.example import Example
from lm.tokenizer import SPECIALS, WORDS
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError


@cache
def conversation_lengths(problems: Any, split: Any, vocab_size: int) -> list[tuple[int, int]]:
    """(prompt, answer) of each problem in tokens, the special ones among them: as many as words, which is what a trained BPE
    makes of frequent ones, or as bytes where the vocabulary has no merges. Raises ConfigError where the files are missing."""
    try:
        examples: list[Example] = problems.examples(split)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    tokens = token_counter(vocab_size)
    return [(tokens(e.prompt) + 2, tokens(e.demonstration) + 1) for e in examples]


def token_counter(vocab_size: int) -> Callable[[str], int]:
    """How many tokens a text has, about: as many as words, or as bytes where the vocabulary has no merges."""
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")

    def tokens(text: str) -> int:
        return len(words.pre_tokenize_str(text)) if vocab_size > 256 + len(SPECIALS) else len(text.encode())

    return tokens


def longest_prompt(stage: str, config: Any, splits: Sequence[str], shape: ModelConfig) -> int:
    """Tokens of the longest prompt that leaves room for the answer. Raises ConfigError when none does."""
    room = shape.context - config.max_new_tokens
    prompts = [prompt for split in splits for prompt, _ in conversation_lengths(config.problems, split, shape.tokens)]
    fitting = [prompt for prompt in prompts if prompt <= room]
    if not fitting:
        raise ConfigError(
            f"{stage}.max_new_tokens: no prompt fits the context of {shape.context} less {config.max_new_tokens}"
        )
    return max(fitting)


def last_of(rows: int, length: int, counted: int) -> Tensor:
    """Places of the last `counted` of so many predictions in each row, in rows laid end to end."""
    return torch.arange(rows * length).view(rows, length)[:, -counted:].flatten()


def check_split(problems: Any, split: str, vocab_size: int) -> Iterator[Finding]:
    """A split has problems."""
    if not conversation_lengths(problems, split, vocab_size):
        yield Finding(
            "params.yaml: problems", f"the split {split} has no problem", "put more problems into problems.folder"
        )


def check_room(
    key: str, problems: Any, splits: Sequence[str], new_tokens: int, sections: Sections, model: str
) -> Iterator[Finding]:
    """One prompt of the splits at least leaves room in the model's context for as many new tokens as the key asks for."""
    shape = sections.shape(model)
    prompts = (prompt for split in splits for prompt, _ in conversation_lengths(problems, split, shape.tokens))
    shortest = min(prompts, default=0)
    if shortest + new_tokens > shape.context:
        yield Finding(
            f"params.yaml: {key}",
            f"no prompt fits the context of {shape.context} less {new_tokens}: the shortest has about {shortest} tokens",
            f"lower it, or raise {sections.key(model, 'context')}",
        )
