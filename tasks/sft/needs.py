"""What supervised fine-tuning takes: its model and checkpoints on disk, and the step that it repeats."""

from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from lm.conversations.dialogue import Dialogue
from lm.conversations.files import dialogues_of, files_of
from lm.model import ModelConfig
from lm.training.batch import Batch, Metrics
from tasks.about.problem_lengths import conversation_lengths, token_counter
from tasks.about.prompts import folder_bytes, model_with_prompt, states_bytes
from tasks.about.sections import Sections
from tasks.about.training import lower
from tasks.about.work import StageNeeds, Step, Work
from tasks.core.config import ConfigError
from tasks.sft.sources.attempts import AGAIN
from tasks.sft.step import loss_of

# Of a source of files, how many conversations are looked at
LOOKED_AT = 512


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where no conversation fits the context."""
    shape = sections.shape("sft")
    return StageNeeds(folder_bytes(sections, "sft", shape), states_bytes(sections, "sft", shape), work(sections, shape))


@cache
def lengths_of(source: Any, problems: Any, folder: Path, vocab_size: int) -> list[tuple[int, int]]:
    """(what is read before it, what is learned) of a source's conversations in tokens, as
    `problem_lengths.conversation_lengths` counts them; of files, and of what a format writes, the first of them. Raises
    ConfigError where there are no files."""
    tokens = token_counter(vocab_size)
    if source.name == "files":
        rows = (
            row
            for path in files_of(folder / source.path, folder)
            for row in dialogues_of(path)
            if isinstance(row, Dialogue)
        )
        return written_lengths(list(islice(rows, LOOKED_AT)), source, tokens)
    every = conversation_lengths(problems, getattr(source, "split", "sft"), vocab_size)
    if source.name == "problems" and source.format.name != "plain":
        return written_lengths(source.rows(problems)[:LOOKED_AT], source, tokens)
    if source.name == "subtasks":
        return [(tokens(prompt) + 2, tokens(answer) + 1) for prompt, answer in source.pairs(problems)]
    if source.name == "attempts":  # each about as long as the answer
        return [(asked + source.samples * (said + tokens(AGAIN) + 2), said) for asked, said in every]
    return every


def written_lengths(rows: list[Dialogue], source: Any, tokens: Callable[[str], int]) -> list[tuple[int, int]]:
    """(what is read before it, what is learned) of dialogues as the source's format writes them."""
    found = []
    for row in (example for examples in source.format(rows, 0) for example in examples):
        lengths = [tokens(message["content"]) + 2 for message in row.messages]
        learned = sum(length for length, weight in zip(lengths, row.weights, strict=True) if weight)
        found.append((sum(lengths) - learned, learned))
    return found


def every_length(sections: Sections) -> list[tuple[int, int]]:
    """Lengths of all sources."""
    config, vocabulary = sections["sft"], sections.shape("sft").vocab_size
    folder = Path(config.conversations.folder)
    return [pair for source in config.sources for pair in lengths_of(source, config.problems, folder, vocabulary)]


def work(sections: Sections, shape: ModelConfig) -> Work:
    """A step of B conversations of T predictions, of which as many count as in the mean answer. Packed ones are counted as rows
    of the longest all the same, of which there are no more."""
    config = sections["sft"]
    every = every_length(sections)
    if config.too_long == "cut":
        every = [
            (min(before, shape.context - 1), min(said, shape.context - min(before, shape.context - 1)))
            for before, said in every
        ]
    lengths = [pair for pair in every if sum(pair) <= shape.context]
    if not lengths:
        raise ConfigError(f"sft: none of the demonstrations fits the context of {shape.context} tokens")
    B, T = config.batch, max(map(sum, lengths)) - 1
    answered = mean(answer for _, answer in lengths) / (T + 1)

    def step() -> Step:
        model, ids_BN = model_with_prompt(shape, sections, config.model), torch.zeros((B, T + 1), dtype=torch.int64)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            kept_K = torch.arange(int((rows.stop - rows.start) * T * answered) + 1)
            inputs_RT, targets_RT = ids_BN[rows, :-1], ids_BN[rows, 1:]
            return loss_of(config.loss, model, inputs_RT, targets_RT, kept_K, kept_K // T, B, 1.0)

        return Step(model, Batch(B, T, B * T, loss))

    tokens = config.steps * B * mean(map(sum, lengths))
    return Work(config, shape, config.steps, tokens, step, lower(sections, config.model))
