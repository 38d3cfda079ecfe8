"""What fine-tuning will learn from, to be looked at: `make show STAGE=sft`."""

from collections.abc import Iterator
from pathlib import Path

from lm.model_folder import read_tokenizer
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.about.examples import Piece
from tasks.about.sections import Sections
from tasks.core.config import CHECKPOINT
from tasks.sft.data import read_data


def examples(sections: Sections, data: Path, count: int) -> Iterator[list[Piece]]:
    """The first conversations of a run, each in pieces of tokens that count alike. Raises ValueError naming what is missing,
    such as the tokenizer of a model that has not been made."""
    config = sections["sft"]
    folder = sections.checkpoint_folder() if config.model == CHECKPOINT else data / config.model
    tokenizer, shape = read_tokenizer(folder), sections.shape("sft")
    found = read_data(config, tokenizer, shape.context, max(count, config.steps * config.batch))
    for index in found.picks_P[:count]:
        yield pieces(tokenizer, found.conversations[index])


def pieces(tokenizer: Tokenizer, conversation: Conversation) -> list[Piece]:
    """The conversation as text, cut where the weight changes; control tokens as they are spelled."""
    ids = conversation.prompt + conversation.completion
    weights = conversation.weights or [1.0] * len(conversation.completion)
    found: list[tuple[list[int], float]] = []
    for token, weight in zip(ids, [0.0] * len(conversation.prompt) + weights, strict=True):
        if found and found[-1][1] == weight:
            found[-1][0].append(token)
        else:
            found.append(([token], weight))
    return [Piece(tokenizer.spell(some), weight) for some, weight in found]
