"""Logits shifted by what tuning did to a small model: emulated fine-tuning, Mitchell et al. 2023 (arXiv:2310.12962), section
3."""

from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from lm.decoding import Rows
from lm.model import Decoder
from lm.sampler import generate
from lm.strategies.assistants import Assistant, assistant
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, as_decoded_answer, number_of
from lm.strategies.filters import FilteredRows
from lm.temperature import Temperature


def emulated(base_RV: Tensor, tuned_RV: Tensor, untuned_RV: Tensor, weight: float) -> Tensor:
    """logits_RV, fp32: base + weight (tuned - untuned). Their softmax is that of the sum of log-probabilities, whose
    normalisers are the same for all tokens of a row."""
    return base_RV.float() + weight * (tuned_RV.float() - untuned_RV.float())


class ProxyRows(FilteredRows):
    """Rows of three models that read the same tokens."""

    def __init__(
        self, *given: Any, tuned: Decoder, untuned: Decoder, weight: float, top_p: float, min_p: float
    ) -> None:
        super().__init__(*given, top_p=top_p, min_p=min_p)
        self._tuned, self._untuned = (Rows(model, *given[1:]) for model in (tuned, untuned))
        self._weight = weight

    def read(self, prompts: list[list[int]], length: int, rows: list[int], which: list[int]) -> None:
        for one in (self._tuned, self._untuned):
            one.read(prompts, length, rows, which)
        super().read(prompts, length, rows, which)

    def pick(self, step: int, temperature: float, points_R: Tensor) -> None:
        tuned_RV, untuned_RV = self._tuned._logits_RV, self._untuned._logits_RV
        self._logits_RV.copy_(emulated(self._logits_RV, tuned_RV, untuned_RV, self._weight))
        super().pick(step, temperature, points_R)

    def advance(self) -> None:
        for one in (self._tuned, self._untuned):
            one._ids_R.copy_(self._ids_R)
            one.cache.lengths_B.copy_(
                self.cache.lengths_B
            )  # 0 where a row ended, which computes on over as little as may be
            one.advance()
        super().advance()


class ProxyTuned(Strategy):
    """The model's logits, and `weight` times what a tuned model has beyond the same model untuned; both are folders of
    data/assistants and have the model's tokens. With weight 1 this is the paper's up-scaling: what a large model would be after
    the tuning that a small one had. Differs from the paper: temperature 0, greedy, unless another is chosen; other weights are
    ours. `tokens` counts the evaluated model's alone: each of the two others is asked as often.
    """

    name: Literal["proxy_tuned"] = "proxy_tuned"
    tuned: Assistant
    untuned: Assistant
    weight: float = Field(1.0, description="of the difference; 0: the model as it is")
    temperature: Temperature = 0.0
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _two(self) -> "ProxyTuned":
        if self.tuned == self.untuned:
            raise ValueError(
                f"tuned and untuned are both {self.tuned}: between a model and itself there is no difference"
            )
        return self

    @property
    def assistants(self) -> list[str]:
        return [self.tuned, self.untuned]

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        tuned, untuned = (assistant(name, model, asked.tokenizer) for name in self.assistants)
        make = partial(
            ProxyRows,
            tuned=tuned,
            untuned=untuned,
            weight=self.weight,
            top_p=self.top_p,
            min_p=self.min_p,
        )
        numbers = [number_of(name, 0) for name in asked.names]
        end, most = asked.tokenizer.end_id, asked.max_new_tokens
        found = generate(model, asked.prompts, most, self.temperature, end, asked.seed, draws=numbers, make_rows=make)
        return [as_decoded_answer(completion) for completion in found]
