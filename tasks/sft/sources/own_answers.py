"""The model's own answers to problems, the best of several: self-training in one round.

Judged by its own likelihood it is the sharpening of Huang et al. 2024 (arXiv:2412.01951, section 3, "SFT-Sharpening": the best
of N by self-reward, then fine-tuning on it), which moves the cost of choosing among samples from inference to training. Judged
by the verifier it is rejection sampling (STaR, arXiv:2203.14465, without its hints). B answers.
"""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.config import Config
from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.problems.example import Example, unit_hash
from lm.sampler import Completion, generate, rows_for
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.sft.sources.base import Read

# Prompts that are answered in one call, so that answers of a hundred thousand problems are not all waited for at once
AT_ONCE = 64


def likeliest(answers: list[Completion]) -> Completion | None:
    """The answer of the largest log-probability under the temperature that it was drawn at, the first of equal ones; None where
    none ended."""
    ended = [answer for answer in answers if answer.finished]
    return max(ended, key=lambda answer: sum(answer.logps), default=None)


class OwnAnswers(Config):
    """Problems of which no answer ended, or none was right, are left out.

    Differs from the sharpening paper: an answer counts only where it ended, and no two rounds are run; `sft.model` makes
    rounds.
    """

    name: Literal["own_answers"] = "own_answers"
    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")
    samples: int = Field(16, gt=0, description="answers to each problem, of which one is learned")
    judge: Literal["likelihood", "verifier"] = Field(
        "likelihood", description="the likeliest answer, or the likeliest of those that the verifier accepts"
    )
    split: Literal["sft", "rl"] = Field("sft", description="of the problem set")
    max_new_tokens: int = Field(32, gt=0)
    temperature: float = Field(1.0, gt=0)

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> Read:
        """Raises ValueError without a model, which alone can answer."""
        if model is None:
            raise ValueError("sft.sources: own_answers are written by the model when the stage runs")
        room = model.config.context - self.max_new_tokens
        asked = [e for e in problems.examples(self.split) if len(tokenizer.chat(e.prompt)) <= room]
        read = Read([], [])
        for start in range(0, len(asked), AT_ONCE):
            for example, answers in self._answered(asked[start : start + AT_ONCE], tokenizer, model, seed):
                if self.judge == "verifier":
                    answers = [a for a in answers if _is_right(problems.score(example, tokenizer.decode(a.ids)))]
                if best := likeliest(answers):
                    read.conversations.append(Conversation(tokenizer.chat(example.prompt), best.ids))
                    read.levels.append(math.nan)
        return read

    def _answered(
        self, examples: list[Example], tokenizer: Tokenizer, model: Decoder, seed: int
    ) -> list[tuple[Example, list[Completion]]]:
        """Each problem with its answers, whose draws are of its id."""
        S = self.samples
        prompts = [tokenizer.chat(e.prompt) for e in examples for _ in range(S)]
        draws = [int(unit_hash(f"own:{e.id}:{sample}") * 2**53) for e in examples for sample in range(S)]
        rows = rows_for(model, AT_ONCE * S)
        made = generate(model, prompts, self.max_new_tokens, self.temperature, tokenizer.end_id, seed, rows, draws)
        return [(example, made[n * S : (n + 1) * S]) for n, example in enumerate(examples)]


def _is_right(score: Any) -> bool:
    return score.valid and score.value >= 1
