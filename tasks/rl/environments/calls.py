"""Answers with calls in them: what stands between two marks is computed, and the result goes behind it between two others.

ReTool, Feng et al. 2025 (arXiv:2504.11536): the policy writes code, which is run while it writes; what came of it is put behind
the code, and the policy writes on. Only the outcome is rewarded, and results are left out of the loss.

Differs from the paper: no cold start, which is what sft does with demonstrations that have calls in them; marks are words and
not tokens; the sampler, which stops at one token alone, writes on behind a call, and what it wrote there is thrown away: as
whether it is depends on what stands before it alone, what is kept is distributed as if it had stopped there. The cache of keys
and values is not kept over a call: each turn reads its prompt again.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from pydantic import Field, model_validator

from lm.config import ConfigError
from lm.tokenizer import Tokenizer
from tasks.rl.environments.base import Environment, Sample, Transcript

MARK = r"^\S+$"  # without white space, so that a space put into a text can make no mark
TURN = 1 << 32  # numbers of draws of a turn: those of its answers are this far from those of the turn before


def call_in(text: str, begin: str, end: str) -> str | None:
    """What stands between the first mark that begins a call and the next one that ends it; None without."""
    found = re.search(f"{re.escape(begin)}(.*?){re.escape(end)}", text, re.DOTALL)
    return found[1] if found else None


def tokens_to_call(tokenizer: Tokenizer, ids: Sequence[int], begin: str, end: str) -> int | None:
    """Number of tokens with the last of which the first call is whole; None where there is none. The last may bring more than
    the mark: a token is not divided."""

    def whole(count: int) -> bool:
        return call_in(tokenizer.decode(list(ids[:count])), begin, end) is not None

    return bisect_left(range(len(ids)), True, key=whole) if whole(len(ids)) else None


def neutral(text: str, marks: Sequence[str]) -> str:
    """The text without any of the marks: the first character of each is a space in it."""
    for mark in marks:
        while mark in text:  # once more of what overlapped
            text = text.replace(mark, " " + mark[1:])
    return text


class Calls(Environment):
    """Environment that answers calls. At most `turns` of an answer are answered; what is a call behind them is text."""

    begin: str = Field(pattern=MARK, description="what begins a call")
    end: str = Field(pattern=MARK, description="what ends it")
    result_begin: str = Field(pattern=MARK, description="what the environment begins a result with")
    result_end: str = Field(pattern=MARK, description="what it ends it with")
    turns: int = Field(4, gt=0, description="calls of an answer that are answered")
    result_tokens: int = Field(
        32, gt=0, description="tokens of a result with its marks, at most; what is longer is cut"
    )

    @model_validator(mode="after")
    def _marks_differ(self) -> "Calls":
        marks = self.marks
        inside = [
            f"{one!r} is in {other!r}"
            for n, one in enumerate(marks)
            for m, other in enumerate(marks)
            if n != m and one in other
        ]
        if inside:
            raise ValueError(f"no mark may stand in another one: {inside[0]}")
        return self

    @property
    def marks(self) -> tuple[str, str, str, str]:
        return self.begin, self.end, self.result_begin, self.result_end

    @property
    def max_added_tokens(self) -> int:
        return self.turns * self.result_tokens

    def results(self, calls: list[str]) -> list[str]:
        """What comes of each call: a text whatever the call is, an error in words."""
        raise NotImplementedError

    def __call__(self, sample: Sample, tokenizer: Tokenizer, prompts: list[list[int]], most: int) -> list[Transcript]:
        """An answer that calls with the last token that the model may write ends there."""
        written = [Transcript() for _ in prompts]
        going = list(range(len(prompts)))
        for turn in range(self.turns + 1):
            longer = [prompts[place] + written[place].ids for place in going]
            found = sample(longer, [turn * TURN + place for place in going])
            asked: dict[int, str] = {}
            for place, completion in zip(going, found, strict=True):
                answer = written[place]
                left = most - sum(answer.own)
                ids, logps = completion.ids[:left], completion.logps[:left]
                whole = tokens_to_call(tokenizer, ids, self.begin, self.end) if turn < self.turns else None
                stop = len(ids) if whole is None else whole
                answer.add(ids[:stop], logps[:stop], True)
                if whole is None:
                    answer.finished = completion.finished and len(ids) == len(completion.ids)
                elif whole < left:
                    call = call_in(tokenizer.decode(ids[:whole]), self.begin, self.end)
                    assert call is not None
                    asked[place] = call
            for place, ids in self._written(tokenizer, asked):
                written[place].add(ids, [0.0] * len(ids), False)
                written[place].calls += 1
            going = list(asked)
            if not going:
                break
        return written

    def _written(self, tokenizer: Tokenizer, asked: dict[int, str]) -> Iterator[tuple[int, list[int]]]:
        """(place, tokens of the result) of each call."""
        for place, result in zip(asked, self.results(list(asked.values())), strict=True):
            yield place, self.result_ids(tokenizer, result)

    def result_ids(self, tokenizer: Tokenizer, result: str) -> list[int]:
        """Tokens of a result between its marks, cut to fit. No other mark stands in it. Raises ConfigError where the marks
        alone are too long."""
        text = result
        while True:
            ids = tokenizer.encode(self.framed(text))
            if len(ids) <= self.result_tokens:
                return ids
            if not text:
                raise ConfigError(
                    f"rl.environment.result_tokens: {self.result_tokens} are fewer than the {len(ids)} of a result's marks"
                )
            text = text[: min(len(text) - 1, len(text) * self.result_tokens // len(ids))]

    def framed(self, result: str) -> str:
        """A result between its marks, each of which stands nowhere else in it, and no mark of a call."""
        inside = neutral(result, self.marks)
        text = f"{self.result_begin}{inside}{self.result_end}"
        alone = text.rfind(self.result_begin) == 0 and text.find(self.result_end) == len(text) - len(self.result_end)
        if alone and not any(mark in text for mark in (self.begin, self.end)):
            return text
        return f"{self.result_begin} {inside} {self.result_end}"  # where its ends and a mark made another mark
