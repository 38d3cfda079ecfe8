"""Pairs of steps: what goes on best from a shared beginning of an answer, beside what goes on worst.

Step-aware preference optimization (Liang et al. 2024, arXiv:2406.04314): at each step a pool of candidates from one state, the
best and the worst of them a pair, and on from a random one, so that later pairs are not all of good beginnings. Differs from
the paper: a step is a piece of text, not of denoising, and its worth is the share of its samples that the verifier finds right
in the end, where the paper asks a model of preferences by step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.pairs.sampled import Sampling
from lm.problems.example import Example
from lm.sampler import Completion


@dataclass
class State:
    """A problem, what has been written of its answer, and the pairs that it gave."""

    number: int
    example: Example
    prompt_ids: list[int]
    written: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


class Stepwise(Sampling):
    """Samples of a beginning go on to the end, so that each says at once what a step is and what comes of it."""

    name: Literal["stepwise"] = "stepwise"
    depth: int = Field(4, gt=0, description="steps of an answer from which pairs are made, at most")
    delimiter: str = Field(
        "\n", min_length=1, max_length=1, description="a step ends with the token that has this character"
    )

    def __call__(self, given: SourceInputs) -> Iterator[Pair | SkippedRow]:
        for first, examples in self.problem_batches(given):
            states = [State(first + n, e, given.tokenizer.chat(e.prompt)) for n, e in enumerate(examples)]
            going = states
            for depth in range(self.depth):
                seed = (given.seed * 1_000_003 + first) * 101 + depth
                found = self.sample_completions(given, [s.prompt_ids + s.written for s in going], seed)
                room = given.model.config.context - 1
                going = [
                    state
                    for state, completions in zip(going, found, strict=True)
                    if self._advance(state, completions, given, depth) and len(state.prompt_ids + state.written) < room
                ]
                if not going:
                    break
            for state in states:
                yield from state.pairs
                if not state.pairs:
                    yield SkippedRow(state.example.id, "no_step_matters", state.example.prompt)

    def _advance(self, state: State, completions: list[Completion], given: SourceInputs, depth: int) -> bool:
        """Make the pair of this step, if its candidates differ in worth, and go on from a random one that is not the end; False
        where there is none."""
        worths = self._worths(state, completions, given)
        if not worths:
            return False
        best, worst = max(worths, key=worths.__getitem__), min(worths, key=worths.__getitem__)
        if worths[best] > worths[worst]:
            beginning = state.prompt_ids + state.written
            where = f"{state.example.id}, step {depth + 1}"
            state.pairs.append(Pair(where, state.example.prompt, beginning, list(best), list(worst)))
        open_ones = [step for step in worths if step[-1] != given.tokenizer.end_id]
        if open_ones:
            draw = np.random.Generator(np.random.Philox(key=[given.seed, state.number * 101 + depth]))
            state.written = state.written + list(open_ones[int(draw.integers(len(open_ones)))])
        return bool(open_ones)

    def _worths(self, state: State, completions: list[Completion], given: SourceInputs) -> dict[tuple[int, ...], float]:
        """Worth of each different next step, in the order of sampling: the mean score of those samples that begin with it,
        ended and have a verdict."""
        scores = dict[tuple[int, ...], list[float]]()
        for completion in completions:
            if not completion.finished:
                continue
            text = given.tokenizer.decode(state.written + completion.ids)
            score = given.problems.score(state.example, text)
            if score.valid:
                scores.setdefault(self._first_step(completion.ids, given.tokenizer), []).append(score.value)
        return {step: sum(values) / len(values) for step, values in scores.items()}

    def _first_step(self, ids: list[int], tokenizer: Any) -> tuple[int, ...]:
        """The ids up to the first that has the delimiter in its text, or all."""
        for place, index in enumerate(ids):
            if self.delimiter in tokenizer.decode([index]):
                return tuple(ids[: place + 1])
        return tuple(ids)
