"""The answer that most of several drawn ones end in: self-consistency, Wang et al. 2022 (arXiv:2203.11171), section 2."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import Field

from lm.model import Decoder
from lm.problems.answers import vote_of
from lm.strategies.base import DecodedAnswer, PromptBatch, best_answer
from lm.strategies.sample import Drawing


def winner(votes: Sequence[Hashable | None]) -> int:
    """Place of the first vote of those that are most; of kinds that are equally many, of that which came first. None is no
    vote; 0 where there is no other."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0
    most = max(counts.values())
    return next(place for place, vote in enumerate(votes) if vote is not None and counts[vote] == most)


class Majority(Drawing):
    """The first answer that ends as most do, whatever stands before. Each has one vote, the unweighted sum of the paper's table
    1, also one that was cut off. Differs from the paper: what an answer ends in is found by its form alone, the same for all
    problem sets; forms of a letter, `B` and `(B)`, are different votes."""

    name: Literal["majority"] = "majority"
    samples: int = Field(8, gt=0, description="answers that vote")

    @property
    def default_label(self) -> str:
        return f"majority_{self.samples}"

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        found = []
        for completions in self.sample_completions(model, asked, self.samples):
            votes = [vote_of(asked.text(completion.ids)) for completion in completions]
            found.append(best_answer(completions, winner(votes)))
        return found
