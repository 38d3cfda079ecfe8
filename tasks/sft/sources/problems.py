"""The demonstrations of the problem set, of its split for fine-tuning."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.config import Config
from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.sft.sources.base import Read


class Problems(Config):
    name: Literal["problems"] = "problems"
    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> Read:
        found = [
            Conversation(tokenizer.chat(e.prompt), [*tokenizer.encode(e.demonstration), tokenizer.end_id])
            for e in problems.examples("sft")
        ]
        return Read(found, [math.nan] * len(found))
