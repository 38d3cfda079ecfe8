"""Pairs of a demonstration and a sample of the model's own: what is real beside what the start model makes, which is what
`ddo` discriminates (arXiv:2503.01103), and self-play fine-tuning (Chen et al. 2024, arXiv:2401.01335) with it."""

from collections.abc import Iterator
from typing import Literal

from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.pairs.sampled import Sampling
from lm.training.data.conversations import demonstration_conversation


class SelfPlay(Sampling):
    """Demonstration of each problem beside each of its samples that is another answer, right or wrong: no verifier is asked. A
    sample that came twice is in two pairs, since the papers' losses are expectations over what the start model makes.

    Differs from the papers: a sample that is the demonstration itself, or did not end, makes no pair.
    """

    name: Literal["self_play"] = "self_play"

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        for found in self.answered_problems(given):
            shown = demonstration_conversation(given.tokenizer, found.example).completion
            others = [ids for ids in found.drawn if ids != shown]
            for rejected in others:
                yield Pair(found.example.id, found.example.prompt, found.prompt_ids, shown, rejected)
            if not others:
                reason = "all_answers_as_shown" if found.drawn else "no_answer_ended"
                yield SkippedRow(found.example.id, reason, found.example.prompt)
