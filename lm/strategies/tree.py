"""A tree of steps that is pruned as it grows: beam search against a verifier, with lookahead, as Snell et al. 2024
(arXiv:2408.03314), section 5.2, compare it with best of N.

Letters: N answers a round, M = N / keep from each beginning.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from lm.config import ConfigError
from lm.model import Decoder
from lm.sampler import Completion
from lm.strategies.base import DecodedAnswer, PromptBatch, number_of
from lm.strategies.best_of import mean_logp, select_index
from lm.strategies.sample import Drawing
from lm.tokenizer import Tokenizer


def step_of(ids: list[int], tokenizer: Tokenizer, delimiter: str, most: int) -> int:
    """Tokens of the first step: up to the first whose text has the delimiter, `most` at most."""
    for place, index in enumerate(ids[:most]):
        if delimiter in tokenizer.decode([index]):
            return place + 1
    return min(len(ids), most)


@dataclass
class _Search:
    """The search for one prompt. answers: all that were written, each whole; scores: theirs; open: the beginnings that the next
    round goes on from."""

    answers: list[Completion] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    open: list[Completion] = field(default_factory=lambda: [Completion()])
    tokens: int = 0
    passes: int = 0


class Tree(Drawing):
    """A round draws `samples` answers to their ends, as many from each beginning that was kept, which at first is an empty one.
    Each is scored whole, as `best_of` scores; a next step is worth the mean score of the answers that begin with it, and the
    `keep` best are the beginnings of the next round. The answer is the best of all that were written. `depth: 1` is `best_of`.

    Differs from the paper: a step is scored by where its own sample ends up, and not by a model of steps, which is not here, so
    that a lookahead is drawn and to the end; beginnings that are alike are one; the best answer is taken and not the best sum
    of scores of answers that end alike. `by: verifier` knows the answer in evaluation, as in `best_of`.
    """

    name: Literal["tree"] = "tree"
    samples: int = Field(8, gt=0, description="answers a round; a multiple of keep")
    keep: int = Field(2, gt=0, description="beginnings that a round leaves")
    depth: int = Field(4, gt=0, description="rounds, each a step further")
    delimiter: str = Field("\n", min_length=1, max_length=1, description="a step ends with a token that has it")
    step: int = Field(16, gt=0, description="or after so many tokens")
    by: Literal["verifier", "likelihood"] = "verifier"

    @model_validator(mode="after")
    def _divides(self) -> "Tree":
        if self.samples % self.keep:
            raise ValueError(f"samples must be a multiple of keep (got {self.samples} and {self.keep})")
        return self

    @property
    def default_label(self) -> str:
        return f"tree_{self.samples}_to_{self.depth}" + "_by_likelihood" * (self.by == "likelihood")

    @property
    def answers(self) -> int:
        return self.samples * self.depth

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        if self.by == "verifier" and asked.score is None:
            raise ConfigError("tree: there is nobody to score answers: take by: likelihood")
        every = [_Search() for _ in asked.prompts]
        for turn in range(self.depth):
            jobs = []  # (place, beginning, which of the round)
            for place, search in enumerate(every):
                fitting = [one for one in search.open if self._fits(model, asked, place, one)]
                each = self.samples // max(len(fitting), 1) if turn == 0 else self.samples // self.keep
                jobs += [(place, one, n * each + m) for n, one in enumerate(fitting) for m in range(each)]
                search.open = []
            prompts = [asked.prompts[place] + one.ids for place, one, _ in jobs]
            # the first round's are those of `best_of`
            numbers = [number_of(asked.names[place], f"{turn}:{n}" if turn else n) for place, _, n in jobs]
            found = self.sample_numbered(model, asked, prompts, numbers)
            rounds: dict[int, list[tuple[Completion, Completion]]] = {}
            for (place, one, _), completion in zip(jobs, found, strict=True):
                rounds.setdefault(place, []).append((one, completion))
            for place, drawn in rounds.items():
                self._grow(asked, place, every[place], drawn)
        return [self._best(search) for search in every]

    def _fits(self, model: Decoder, asked: PromptBatch, place: int, one: Completion) -> bool:
        """Whether a token more has room behind a beginning."""
        return len(one.ids) < min(asked.max_new_tokens, model.config.context - len(asked.prompts[place]))

    def _grow(
        self, asked: PromptBatch, place: int, search: _Search, drawn: list[tuple[Completion, Completion]]
    ) -> None:
        """Take what was drawn behind each beginning, and keep the steps that it is worth most to go on from."""
        worths: dict[tuple[int, ...], list[float]] = {}
        steps: dict[tuple[int, ...], Completion] = {}
        lengths = []
        for one, completion in drawn:
            left = asked.max_new_tokens - len(one.ids)
            ids, logps = completion.ids[:left], completion.logps[:left]
            lengths.append(len(ids))
            whole = Completion(one.ids + ids, one.logps + logps, completion.finished and len(completion.ids) <= left)
            score = self._score(asked, place, whole)
            search.answers.append(whole)
            search.scores.append(score)
            end = len(one.ids) + step_of(ids, asked.tokenizer, self.delimiter, self.step)
            if score is None or (whole.finished and end == len(whole.ids)):
                continue  # what has ended is no beginning
            beginning = tuple(whole.ids[:end])
            steps.setdefault(beginning, Completion(whole.ids[:end], whole.logps[:end]))
            worths.setdefault(beginning, []).append(score)
        search.tokens += sum(lengths)
        search.passes += max(lengths)
        means = {beginning: sum(scores) / len(scores) for beginning, scores in worths.items()}
        best = sorted(means, key=lambda beginning: -means[beginning])  # of equals the first
        search.open = [steps[beginning] for beginning in best[: self.keep]]

    def _score(self, asked: PromptBatch, place: int, whole: Completion) -> float | None:
        if self.by == "likelihood":
            return mean_logp(whole)
        assert asked.score is not None
        return asked.score(place, asked.text(whole.ids))

    def _best(self, search: _Search) -> DecodedAnswer:
        return DecodedAnswer(search.answers[select_index(search.scores, 0.0, 0.0)].ids, search.tokens, search.passes)
