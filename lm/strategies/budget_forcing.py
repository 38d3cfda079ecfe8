"""A least and a greatest length of an answer: budget forcing, Muennighoff et al. 2025 (s1, arXiv:2501.19393), section 3.1."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from lm.config import ConfigError
from lm.model import Decoder
from lm.sampler import Completion, generate
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, number_of
from lm.temperature import Temperature


@dataclass
class _Written:
    """What stands behind a prompt by now, how many tokens the model was asked for, and how many were put there. ended: by
    itself."""

    ids: list[int] = field(default_factory=list)
    asked: int = 0
    put: int = 0
    ended: bool = False


class BudgetForcing(Strategy):
    """An answer that would end before `minimum` tokens does not: the token that ends it is taken away, the trigger put in its
    place, and the model goes on, `times` times at most. One that has not ended after `maximum` tokens, the triggers among
    them, is cut; `final` is then put behind it, and what is left of evaluation's max_new_tokens is for the answer itself.

    Differs from the paper: there the thinking that is held to these numbers has a delimiter at its end, behind which the answer
    stands; here it is the answer's own end. temperature 0 is greedy, as there.
    """

    name: Literal["budget_forcing"] = "budget_forcing"
    minimum: int = Field(0, ge=0, description="tokens before which an answer does not end")
    maximum: int | None = Field(None, gt=0, description="tokens after which it is cut; none: max_new_tokens")
    trigger: str = Field("Wait", min_length=1, description="what is put in the place of an end that came too early")
    times: int = Field(4, ge=0, description="triggers in an answer at most")
    final: str = Field(
        "", description="what is put behind an answer that was cut, before its final part; empty: nothing"
    )
    temperature: Temperature = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> "BudgetForcing":
        if self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum: {self.minimum} tokens are more than the maximum, {self.maximum}")
        if self.final and self.maximum is None:
            raise ValueError("final: stands behind an answer that was cut: say after how many tokens, as maximum")
        return self

    @property
    def default_label(self) -> str:
        return f"budget_forcing_{self.minimum}" + f"_to_{self.maximum}" * (self.maximum is not None)

    def check(self, max_new_tokens: int) -> None:
        if (self.maximum or 0) + bool(self.final) > max_new_tokens:
            raise ValueError(
                f"budget_forcing: maximum {self.maximum} leaves no room in max_new_tokens, {max_new_tokens}: lower it"
            )
        if self.minimum > max_new_tokens:
            raise ValueError(
                f"budget_forcing: minimum {self.minimum} is above max_new_tokens, {max_new_tokens}: lower it"
            )

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        most = self.maximum or asked.max_new_tokens
        trigger, final = asked.tokenizer.encode(self.trigger), asked.tokenizer.encode(self.final)
        if final and most + len(final) >= asked.max_new_tokens:
            raise ConfigError(
                f"budget_forcing: {most} tokens and {len(final)} of `final` leave no room in max_new_tokens, "
                f"{asked.max_new_tokens}: lower maximum"
            )
        every = [_Written() for _ in asked.prompts]
        self._go_on(model, asked, every, list(range(len(every))), most, 0)
        for time in range(1, self.times + 1):
            early = []
            for place, written in enumerate(every):
                ids = written.ids[:-1] + trigger
                if written.ended and len(written.ids) < self.minimum and self._fits(model, asked, place, ids, most):
                    written.ids, written.ended = ids, False
                    written.put += len(trigger)
                    early.append(place)
            self._go_on(model, asked, every, early, most, time)
        cut = []
        for place, written in enumerate(every):
            ids = written.ids + final
            if final and not written.ended and self._fits(model, asked, place, ids, asked.max_new_tokens):
                written.ids = ids
                written.put += len(final)
                cut.append(place)
        self._go_on(model, asked, every, cut, asked.max_new_tokens, "final")
        return [DecodedAnswer(written.ids, written.asked + written.put, written.asked) for written in every]

    def _fits(self, model: Decoder, asked: PromptBatch, place: int, ids: list[int], most: int) -> bool:
        """Whether a token more has room behind these."""
        return len(ids) < min(most, model.config.context - len(asked.prompts[place]))

    def _go_on(
        self, model: Decoder, asked: PromptBatch, every: list[_Written], places: list[int], most: int, turn: int | str
    ) -> None:
        """Write on at these places up to so many tokens in all; what was put there counts."""
        prompts = [asked.prompts[place] + every[place].ids for place in places]
        draws = [number_of(asked.names[place], turn) for place in places]
        # as many tokens for all, whatever each has left: how long a cache is must follow from nothing but the prompt
        found: list[Completion] = generate(
            model, prompts, most, self.temperature, asked.tokenizer.end_id, asked.seed, draws=draws
        )
        for place, completion in zip(places, found, strict=True):
            written = every[place]
            left = most - len(written.ids)
            written.ended = completion.finished and len(completion.ids) <= left
            written.ids = written.ids + completion.ids[:left]
            written.asked += min(left, len(completion.ids))
