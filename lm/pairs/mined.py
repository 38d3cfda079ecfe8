"""Pairs mined from the model's own answers by the verifier: one that it accepts beside one that it does not.

The second stage of weak-to-strong reasoning (Yang et al. 2024, arXiv:2407.13647) and a round of iterative reasoning preference
optimization (Pang et al. 2024, arXiv:2404.19733): what is preferred is what turns out right. Here a program says so; where the
former has no answers to compare with, its model judges by agreement.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.pairs.sampled import Sampling


class Mined(Sampling):
    """Pairs of each problem, as many as it has right and wrong answers for, the first with the first; an answer is in one pair.

    Problems whose answers are all right, or all wrong, or have no verdict, give none, and are named with the reason.
    """

    name: Literal["mined"] = "mined"
    most: int = Field(1, gt=0, description="pairs of a problem, at most")

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        for found in self.answered_problems(given):
            texts = [given.tokenizer.decode(ids) for ids in found.answers]
            scores = [given.problems.score(found.example, text) for text in texts]
            right = [ids for ids, score in zip(found.answers, scores, strict=True) if score.valid and score.value == 1]
            wrong = [ids for ids, score in zip(found.answers, scores, strict=True) if score.valid and score.value < 1]
            for chosen, rejected in list(zip(right, wrong, strict=False))[: self.most]:
                yield Pair(found.example.id, found.example.prompt, found.prompt_ids, chosen, rejected)
            if right and wrong:
                continue
            none = "no_answer_ended" if not found.answers else "no_verdict"
            reason = "all_answers_right" if right else "no_answer_right" if wrong else none
            yield SkippedRow(found.example.id, reason, found.example.prompt)
