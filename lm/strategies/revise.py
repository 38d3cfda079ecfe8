"""An answer that the model is asked to look at again: sequential revision, as Snell et al. 2024 (arXiv:2408.03314), section 6,
set it beside samples in parallel; without examples and without another model, Self-Refine (Madaan et al. 2023,
arXiv:2303.17651)."""

from typing import Literal

from pydantic import Field

from lm.config import ConfigError
from lm.model import Decoder
from lm.problems.answers import vote_of
from lm.sampler import generate
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, number_of
from lm.strategies.majority import winner
from lm.temperature import Temperature


class Revise(Strategy):
    """The model answers; then, `turns` times, its last answer is shown to it as its own turn of the conversation, `ask` is
    said, and it answers anew. `keep: last` takes the last answer, `majority` the first that ends as most of them do. An answer
    that did not end is not shown, nor one behind which no token has room: what there is by then is all.

    Differs from Snell et al.: no model was trained to revise, and it is shown one earlier answer and not four. Differs from
    Self-Refine: there is no turn of its own for what is wrong with the answer.
    """

    name: Literal["revise"] = "revise"
    turns: int = Field(1, gt=0, description="how often it is asked again, at most")
    ask: str = Field("Look at it again and answer once more.", min_length=1, description="what it is asked by")
    keep: Literal["last", "majority"] = "last"
    temperature: Temperature = 0.0

    @property
    def default_label(self) -> str:
        return f"revise_{self.turns}" + "_majority" * (self.keep == "majority")

    @property
    def answers(self) -> int:
        return 1 + self.turns

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        tokenizer = asked.tokenizer
        if tokenizer.own_template:
            raise ConfigError(
                "revise: a turn more can be written behind a prompt in our own chat template alone, and the model has another: "
                "take another strategy"
            )
        again = tokenizer.chat(self.ask)
        every: list[list[list[int]]] = [[] for _ in asked.prompts]
        going = list(range(len(every)))
        for turn in range(1 + self.turns):
            prompts = [asked.prompts[place] + (every[place][-1] + again if turn else []) for place in going]
            fitting = [n for n, prompt in enumerate(prompts) if len(prompt) < model.config.context]
            places = [going[n] for n in fitting]
            draws = [number_of(asked.names[place], turn) for place in places]
            found = generate(
                model, [prompts[n] for n in fitting], asked.max_new_tokens, self.temperature, tokenizer.end_id, asked.seed,
                draws=draws,
            )  # fmt: skip
            going = []
            for place, completion in zip(places, found, strict=True):
                every[place].append(completion.ids)
                if completion.finished:
                    going.append(place)
        return [self._taken(asked, answers) for answers in every]

    def _taken(self, asked: PromptBatch, answers: list[list[int]]) -> DecodedAnswer:
        """One of a prompt's answers, which were written one after the other."""
        place = len(answers) - 1
        if self.keep == "majority":
            place = winner([vote_of(asked.text(ids)) for ids in answers])
        tokens = sum(map(len, answers))
        return DecodedAnswer(answers[place], tokens, tokens)
