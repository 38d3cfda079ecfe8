"""Pairs that a weaker model stands in for people in: it answers beside the start model, or says which answers are right.

Weak-to-strong reasoning (Yang et al. 2024, arXiv:2407.13647), its second stage: the stronger model judges by how often its own
answers end alike, and learns from what the weaker one gets wrong. Labels of the weaker model itself are what Burns et al. 2023
(arXiv:2312.09390) call naive weak supervision.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from lm.config import ConfigError
from lm.inputs.hashed import check_is_hashed
from lm.model import Decoder
from lm.model_folder import read_model
from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.pairs.sampled import Sampling
from lm.problems.answers import vote_of
from lm.tokenizer import Tokenizer

Answers = list[tuple[list[int], Hashable | None]]  # ids up to the end token, and what they end in


def majority_vote(votes: Sequence[Hashable | None]) -> tuple[Hashable | None, float]:
    """(what most answers end in, the first of equals, and the share of all of them that do). An answer that ends in nothing
    has no vote, and counts among all; (None, 0) where none has one."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return None, 0.0
    [(most, count)] = counts.most_common(1)
    return most, count / len(votes)


class Weak(Sampling):
    """No verifier is asked and no demonstration read: what the judge's answers to a problem mostly end in is taken for right,
    where enough of them do. By `self` the judge is the start model: an answer of its own that ends so beside one of the weaker
    model's that ends otherwise. By `weak` the weaker model judges: two answers of the start model, one that ends so and one
    that does not. The same folder, start model and seed give the same pairs.

    Differs from the paper: its first stage, fine-tuning on the weaker model's answers, is not here; the weaker model answers as
    often as the start model and not once; pairs of a right weak answer and a wrong one of the start model are not made; what an
    answer ends in is found by its form alone.
    """

    name: Literal["weak"] = "weak"
    model: str = Field(
        "weak", pattern="^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", description="name of the weaker model's folder in `folder`"
    )
    judge: Literal["self", "weak"] = Field("self", description="whose answers say what is right")
    confidence: float = Field(
        0.6, gt=0, le=1, description="share of the judge's answers that must end alike; else there is no pair"
    )
    most: int = Field(1, gt=0, description="pairs of a problem, at most")

    def read(self, slot: str, folder: Path) -> tuple[Decoder, Tokenizer]:
        """The weaker model. Raises ConfigError, which names the section of the slot, where there is none."""
        path = folder / self.model
        if not path.is_dir():
            raise ConfigError(f"{slot}: weak: {path}: no such folder: copy the weaker model there")
        try:
            check_is_hashed(path, folder)
            return read_model(path)
        except ValueError as error:
            raise ConfigError(f"{slot}: weak: {error}") from None

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        weaker, tokenizer = self.read(given.slot, given.folder)
        weaker.to(given.model.embedding.weight.device)
        for first, examples in self.problem_batches(given):
            seed = given.seed * 1_000_003 + first
            prompts = [given.tokenizer.chat(example.prompt) for example in examples]
            texts = [example.prompt for example in examples]
            own = self._own(given, prompts, seed)
            others = self._others(given, weaker, tokenizer, texts, seed)
            for example, prompt, mine, theirs in zip(examples, prompts, own, others, strict=True):
                found = self.pairs_of(mine, theirs)
                if isinstance(found, str):
                    yield SkippedRow(example.id, found, example.prompt)
                else:
                    yield from (Pair(example.id, example.prompt, prompt, *answers) for answers in found)

    def pairs_of(self, own: Answers, weak: Answers) -> list[tuple[list[int], list[int]]] | str:
        """(chosen, rejected) of a problem, whose ids no other pair of it has, the first with the first; or the reason why there
        is none. An answer that did not end has no ids, and no vote."""
        judging = own if self.judge == "self" else weak
        right, share = majority_vote([vote for _, vote in judging])
        if right is None:
            return "no_answer_ended"
        if share < self.confidence:
            return "not_sure"
        against = weak if self.judge == "self" else own
        chosen = dict.fromkeys(tuple(ids) for ids, vote in own if vote == right)
        rejected = dict.fromkeys(tuple(ids) for ids, vote in against if vote not in (None, right))
        if not chosen:
            return "no_answer_right"
        if not rejected:
            return "all_answers_right"
        some = list(zip(chosen, rejected, strict=False))[: self.most]
        return [(list(one), list(other)) for one, other in some]

    def _own(self, given: SourceInputs, prompts: list[list[int]], seed: int) -> list[Answers]:
        decode = given.tokenizer.decode
        every = self.sample_completions(given, prompts, seed)
        return [[(c.ids, vote_of(decode(c.ids)) if c.finished else None) for c in some] for some in every]

    def _others(
        self, given: SourceInputs, weaker: Decoder, tokenizer: Tokenizer, texts: list[str], seed: int
    ) -> list[Answers]:
        """The weaker model's answers, in the start model's tokens. One that it does not end, or that is more than
        max_new_tokens of them, has no vote, nor has any to a prompt that does not fit its context."""
        prompts = [tokenizer.chat(text) for text in texts]
        room = weaker.config.context - self.max_new_tokens
        there = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
        asked = replace(given, model=weaker, tokenizer=tokenizer)
        found: list[Answers] = [[] for _ in texts]
        # other draws than the start model's, which else would say the same where it has the same weights
        sampled = self.sample_completions(asked, [prompts[place] for place in there], seed + 1)
        for place, completions in zip(there, sampled, strict=True):
            for completion in completions:
                text = tokenizer.decode(completion.ids)
                ids = given.encode_answer(text)
                known = completion.finished and len(ids) <= self.max_new_tokens
                found[place].append((ids, vote_of(text) if known else None))
        return found
