"""Answers where they are needed: how hard a prompt is, is seen in a few first answers, and decides what is done for it, after
compute-optimal scaling of test-time compute, Snell et al. 2024 (arXiv:2408.03314), section 3."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from lm.model import Decoder
from lm.problems.answers import vote_of
from lm.sampler import Completion
from lm.strategies.base import DecodedAnswer, PromptBatch, best_answer, number_of
from lm.strategies.majority import winner
from lm.strategies.sample import Drawing
from lm.strategies.tree import Tree

EASY, MIDDLING, HARD = 0, 1, 2
# Of the tree for hard prompts: rounds, and beginnings that one leaves
ROUNDS, KEPT = 4, 2


def bin_of(votes: Sequence[Hashable | None], easy: float, hard: float) -> int:
    """How hard a prompt is, by the share of its answers that end as most of them do: EASY from `easy` on, HARD below `hard`,
    else MIDDLING. An answer that ends in nothing agrees with none."""
    most = votes[winner(votes)]
    share = votes.count(most) / len(votes) if most is not None else 0.0
    return EASY if share >= easy else HARD if share < hard else MIDDLING


class ByDifficulty(Drawing):
    """`first` answers are drawn, and where a share of `easy` of them or more ends alike, their majority is taken. Where it is
    less, the prompt gets `samples` answers in all, below `hard` `most` of them, the first ones among them, and their majority
    is taken. `hard_by: tree` searches for hard prompts in place of that: `most` answers in four rounds of a tree by likelihood,
    beside the first ones. What the first answers took is counted.

    Differs from the paper: a prompt's bin follows from how its own answers agree, since nobody who knows the answer is asked,
    and not from quantiles of all prompts by a model of steps; what a bin gets is said here, and not looked up where it was best
    on other prompts; revisions are no choice, and what the paper calls verifier is the model's own likelihood.
    """

    name: Literal["by_difficulty"] = "by_difficulty"
    first: int = Field(4, gt=0, description="answers that tell how hard a prompt is")
    easy: float = Field(0.75, gt=0, le=1, description="share of these that end alike, from which on a prompt is easy")
    hard: float = Field(0.4, ge=0, le=1, description="share below which it is hard")
    samples: int = Field(8, gt=0, description="answers to a prompt that is neither; at least as many as first")
    most: int = Field(16, gt=0, description="answers to a hard prompt; at least as many as samples")
    hard_by: Literal["majority", "tree"] = "majority"

    @model_validator(mode="after")
    def _in_order(self) -> "ByDifficulty":
        if not self.first <= self.samples <= self.most:
            raise ValueError(
                f"first, samples and most must not fall (got {self.first}, {self.samples} and {self.most})"
            )
        if self.hard > self.easy:
            raise ValueError(f"hard: a share of {self.hard} is above easy, {self.easy}")
        if self.hard_by == "tree" and self.most % (ROUNDS * KEPT):
            raise ValueError(f"most must be a multiple of {ROUNDS * KEPT} where hard_by is tree (got {self.most})")
        return self

    @property
    def default_label(self) -> str:
        return f"by_difficulty_{self.first}_{self.samples}_{self.most}" + "_by_tree" * (self.hard_by == "tree")

    @property
    def answers(self) -> int:
        return self.most + self.first * (self.hard_by == "tree")

    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        every = self.sample_completions(model, asked, self.first)
        bins = [bin_of([vote_of(asked.text(c.ids)) for c in some], self.easy, self.hard) for some in every]
        in_all = {EASY: self.first, MIDDLING: self.samples, HARD: self.most if self.hard_by == "majority" else 0}
        jobs = [(place, n) for place, each in enumerate(bins) for n in range(self.first, in_all[each])]
        numbers = [number_of(asked.names[place], n) for place, n in jobs]
        more: list[list[Completion]] = [[] for _ in every]
        found = self.sample_numbered(model, asked, [asked.prompts[place] for place, _ in jobs], numbers)
        for (place, _), completion in zip(jobs, found, strict=True):
            more[place].append(completion)
        searched = self._searched(model, asked, [place for place, each in enumerate(bins) if not in_all[each]])
        return [
            self._after(some, searched[place]) if place in searched else self._of(asked, some, more[place])
            for place, some in enumerate(every)
        ]

    def _of(self, asked: PromptBatch, first: list[Completion], more: list[Completion]) -> DecodedAnswer:
        """The majority's answer, of the first ones and those that were written when these were known."""
        both = [*first, *more]
        best = winner([vote_of(asked.text(completion.ids)) for completion in both])
        passes = sum(max((len(c.ids) for c in some), default=0) for some in (first, more))
        return replace(best_answer(both, best), passes=passes)

    def _searched(self, model: Decoder, asked: PromptBatch, places: list[int]) -> dict[int, DecodedAnswer]:
        """What a tree finds for the prompts at these places."""
        if not places:
            return {}
        drawing = {name: getattr(self, name) for name in Drawing.model_fields if name != "label"}
        tree = Tree(samples=self.most // ROUNDS, keep=KEPT, depth=ROUNDS, by="likelihood", **drawing)
        prompts = [asked.prompts[place] for place in places]
        names = [asked.names[place] for place in places]
        return dict(zip(places, tree(model, replace(asked, prompts=prompts, names=names, score=None)), strict=True))

    def _after(self, first: list[Completion], found: DecodedAnswer) -> DecodedAnswer:
        """What was found, with what the first answers took beside it."""
        lengths = [len(completion.ids) for completion in first]
        return DecodedAnswer(found.ids, found.tokens + sum(lengths), found.passes + max(lengths))
