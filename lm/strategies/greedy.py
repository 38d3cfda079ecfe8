"""The likeliest token, again and again."""

from typing import Literal

from lm.model import Decoder
from lm.sampler import generate
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, as_decoded_answer


class Greedy(Strategy):
    """What evaluation's own accuracy is of, and other strategies are compared with."""

    name: Literal["greedy"] = "greedy"

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        end, most = asked.tokenizer.end_id, asked.max_new_tokens
        return [as_decoded_answer(found) for found in generate(model, asked.prompts, most, 0.0, end, 0)]
