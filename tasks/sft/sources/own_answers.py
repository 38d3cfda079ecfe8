"""The model's own answers to problems, the best of several: self-training in one round.

Judged by its own likelihood it is the sharpening of Huang et al. 2024 (arXiv:2412.01951, section 3, "SFT-Sharpening": the best
of N by self-reward, then fine-tuning on it), which moves the cost of choosing among samples from inference to training. Judged
by the verifier it is rejection sampling (STaR, arXiv:2203.14465, without its hints). With reflection, problems of which no
answer was right are answered anew with the wrong one and the verdict in sight (Dou et al. 2024, Re-ReST, arXiv:2406.01495).
"""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.problems.example import Example
from lm.sampler import Completion
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.sft.sources.base import SourceData
from tasks.sft.sources.sampled import Sampled, is_right, is_wrong

# What the verifier has to say of an answer that it refuses
VERDICT = "That is wrong. Answer again."


def likeliest(answers: list[Completion]) -> Completion | None:
    """The answer of the largest log-probability under the temperature that it was drawn at, the first of equal ones; None where
    none ended."""
    ended = [answer for answer in answers if answer.finished]
    return max(ended, key=lambda answer: sum(answer.logps), default=None)


class OwnAnswers(Sampled):
    """Problems of which no answer ended, or none was right, are left out.

    Differs from the sharpening paper: an answer counts only where it ended, and no two rounds are run; `sft.model` makes
    rounds. Differs from Re-ReST: the start model itself reflects, and none is trained to; its verifier's verdict is all that
    it is told; what is learned is the question with the answer that turned out right.
    """

    name: Literal["own_answers"] = "own_answers"
    samples: int = Field(16, gt=0, description="answers to each problem, of which one is learned")
    judge: Literal["likelihood", "verifier"] = Field(
        "likelihood", description="the likeliest answer, or the likeliest of those that the verifier accepts"
    )
    rewriter: Literal["none", "reflection"] = Field(
        "none",
        description="what becomes of a problem without a right answer: left out, or answered again with its likeliest wrong "
        "answer and the verdict in sight, as often as there are samples",
    )
    split: Literal["sft", "rl"] = Field("sft", description="of the problem set")

    @model_validator(mode="after")
    def _judged(self) -> "OwnAnswers":
        if self.rewriter == "reflection" and self.judge != "verifier":
            raise ValueError("rewriter reflection answers again what the verifier refuses: it needs `judge: verifier`")
        return self

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> SourceData:
        """Raises ValueError without a model, which alone can answer."""
        if model is None:
            raise ValueError("sft.sources: own_answers are written by the model when the stage runs")
        read = SourceData([], [])
        for some in self.answer_problems(problems.examples(self.split), tokenizer, model, seed):
            missed = []
            for example, answers in some:
                best = self._best(example, answers, problems, tokenizer)
                if best is None:
                    missed.append((example, answers))
                else:
                    _learn(read, tokenizer.chat(example.prompt), best)
            if self.rewriter == "reflection":
                self._reflect(read, missed, problems, tokenizer, model, seed)
        return read

    def _best(
        self, example: Example, answers: list[Completion], problems: Any, tokenizer: Tokenizer
    ) -> Completion | None:
        if self.judge == "verifier":
            answers = [a for a in answers if is_right(problems.score(example, tokenizer.decode(a.ids)))]
        return likeliest(answers)

    def _reflect(
        self,
        read: SourceData,
        missed: list[tuple[Example, list[Completion]]],
        problems: Any,
        tokenizer: Tokenizer,
        model: Decoder,
        seed: int,
    ) -> None:
        """Add what turns out right at the second try."""
        again, prompts = [], []
        for example, answers in missed:
            wrong = [a for a in answers if is_wrong(problems.score(example, tokenizer.decode(a.ids)))]
            if worst := likeliest(wrong):
                prompt = reflecting(example.prompt, tokenizer.decode(worst.ids), tokenizer)
                if prompt and len(prompt) <= model.config.context - self.max_new_tokens:
                    again.append(example)
                    prompts.append(prompt)
        keys = [f"reflected:{example.id}" for example in again]
        made = self.completions(prompts, keys, tokenizer, model, seed)
        for example, answers in zip(again, made, strict=True):
            if best := self._best(example, answers, problems, tokenizer):
                _learn(read, tokenizer.chat(example.prompt), best)


def reflecting(question: str, answer: str, tokenizer: Tokenizer) -> list[int] | None:
    """Tokens of the question, the wrong answer and the verdict, which await another answer; None where a text spells a control
    token."""
    turns = [("user", question), ("assistant", answer), ("user", VERDICT)]
    if any(tokenizer.spelled(text) for _, text in turns):
        return None
    messages = [{"role": role, "content": text} for role, text in turns]
    return tokenizer.encode_written(tokenizer.template.render(messages, awaiting=True).text)[0]


def _learn(read: SourceData, prompt: list[int], answer: Completion) -> None:
    read.conversations.append(Conversation(prompt, answer.ids))
    read.levels.append(math.nan)
