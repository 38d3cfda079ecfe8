"""A demonstration behind attempts of the model that are worse, which are read and not learned: thought-mask fine-tuning (Du et
al. 2024, "Think Thrice Before You Act: Progressive Thought Refinement", arXiv:2410.13413).

What is learned is how to improve on an answer rather than the answer alone.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.conversations.dialogue import Dialogue, InvalidRow
from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.problems.example import Example
from lm.sampler import Completion
from lm.tokenizer import Tokenizer
from tasks.sft import formats
from tasks.sft.sources.base import SourceData, read_rows
from tasks.sft.sources.sampled import Sampled, is_wrong

# What the user says to each attempt
AGAIN = "Improve on this answer."


def refined(example: Example, attempts: list[str]) -> Dialogue:
    """The question, the attempts, each followed by AGAIN, and the demonstration, which alone counts."""
    turns = [("user", example.prompt)]
    for attempt in attempts:
        turns += [("assistant", attempt), ("user", AGAIN)]
    turns.append(("assistant", example.demonstration))
    messages = [{"role": role, "content": text} for role, text in turns]
    return Dialogue(example.id, messages, [0.0] * (len(turns) - 1) + [1.0])


class Attempts(Sampled):
    """Attempts that did not end are left out, and so are problems of which none is left.

    What is the paper's: weak attempts stand before a better answer, and their tokens count nothing. Differs from the paper: the
    start model makes the attempts and the problem set the answer, where it has a weak and a strong model; which attempts are
    worse is said by the verifier and not by scores of consistency; its weights for improving over earlier rounds are not here.
    """

    name: Literal["attempts"] = "attempts"
    samples: int = Field(2, gt=0, description="attempts at each problem")
    kept: Literal["wrong", "all"] = Field(
        "wrong", description="attempts: those that the verifier refuses, or every one"
    )

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> SourceData:
        """Raises ValueError without a model, which alone can make attempts."""
        if model is None:
            raise ValueError("sft.sources: attempts are made by the model when the stage runs")
        rows: list[Dialogue | InvalidRow] = []
        for some in self.answer_problems(problems.examples("sft"), tokenizer, model, seed):
            for example, answers in some:
                if attempts := self._kept(example, answers, problems, tokenizer):
                    rows.append(refined(example, attempts))
        return read_rows(rows, formats.Plain(), tokenizer, learned, seed)

    def _kept(self, example: Example, answers: list[Completion], problems: Any, tokenizer: Tokenizer) -> list[str]:
        """Texts of the attempts in the order in which they were drawn, equal ones once."""
        texts = dict.fromkeys(tokenizer.decode(answer.ids) for answer in answers if answer.finished)
        return [t for t in texts if self.kept == "all" or is_wrong(problems.score(example, t))]
