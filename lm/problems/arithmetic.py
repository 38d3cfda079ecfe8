"""Addition and subtraction, answered at once or with the working shown.

Facts are divided by a hash among worksheets (pretraining text), held-out worksheets, sft, rl and test. A fact is two numbers
and their sum; a+b, b+a, and what takes either from the sum are one fact, so no split ever sees a problem of another, not even
turned round.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from pydantic import Field

from lm.config import Config
from lm.problems.example import Example, Score, behind_working, split_of, unit_hash

SHARES = {"worksheets": 0.55, "held_out": 0.05, "sft": 0.1, "rl": 0.15, "test": 0.15}


def pairs_of(split: str, digits: int) -> list[tuple[int, str, int]]:
    """Every problem (left, operator, right) of a split, fact by fact; no operand has more digits, no difference is negative."""
    end = 10**digits
    found: list[tuple[int, str, int]] = []
    for low, high in combinations_with_replacement(range(end), 2):
        if split_of(f"{low}+{high}", SHARES) != split:
            continue
        total = low + high
        turned = [(low, "+", high), (high, "+", low)]
        if total < end:
            turned += [(total, "-", low), (total, "-", high)]
        found += dict.fromkeys(turned)  # once, where both numbers are the same
    return found


def solve(left: int, operator: str, right: int) -> int:
    """The answer."""
    return left + right if operator == "+" else left - right


def working(left: int, operator: str, right: int) -> str:
    """The sum column by column from the right, with what is carried or borrowed: 47+38 gives '7+8=15 4+3+1=8'."""
    columns, carry = max(len(str(left)), len(str(right))), 0
    steps = []
    for column in range(columns):
        top, bottom = (number // 10**column % 10 for number in (left, right))
        if operator == "+":
            result = top + bottom + carry
            moved = "+1" if carry else ""
            carry = result // 10
        else:
            borrow = top - carry < bottom
            moved = "-1" if carry else ""
            top += 10 * borrow
            result = top - bottom - carry
            carry = int(borrow)
        steps.append(f"{top}{operator}{bottom}{moved}={result}")
    return " ".join(steps)


def worked_answer(left: int, operator: str, right: int) -> str:
    """The working, then the answer after a colon."""
    return f"{working(left, operator, right)}: {solve(left, operator, right)}"


def level_of(left: int, operator: str, right: int) -> str:
    """Operation and digits of the longer number: 47+8 gives 'add 2'."""
    return f"{'add' if operator == '+' else 'subtract'} {len(str(max(left, right)))}"


class Arithmetic(Config):
    """Problems of up to `digits` digits; a demonstration shows its working in `worked_fraction` of the cases.

    With terse demonstrations in the majority, SFT teaches a model to answer at once, although it knows how to work a sum
    out; RL then finds that showing the working is what the verifier rewards.
    """

    name: Literal["arithmetic"] = "arithmetic"
    folder: str = Field("data/problems", description="unused here: the problems are generated")
    digits: int = Field(2, ge=1, le=3)
    worked_fraction: float = Field(0.3, ge=0, le=1)

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        """Every problem of the split, in an order that looks random and is always the same."""
        problems = sorted(pairs_of(split, self.digits), key=lambda p: unit_hash(f"order:{p[0]}{p[1]}{p[2]}"))
        return [self._example(*problem) for problem in problems]

    def _example(self, left: int, operator: str, right: int) -> Example:
        prompt, answer = f"{left}{operator}{right}=", str(solve(left, operator, right))
        worked = unit_hash(f"style:{prompt}") < self.worked_fraction
        shown = worked_answer(left, operator, right) if worked else answer
        return Example(prompt, prompt, answer, shown, level_of(left, operator, right))

    def score(self, example: Example, text: str) -> Score:
        """1 when the text is the answer, or ends in it after a colon; else 0."""
        return Score(float(behind_working(text, r"\d+") == example.answer))

    def worksheet_lines(self, seed: int, split: Literal["worksheets", "held_out"] = "worksheets") -> Iterator[str]:
        """Endless solved problems of a split kept for pretraining, or for its held-out text; terse and worked at random."""
        problems = pairs_of(split, self.digits)
        generator = np.random.Generator(np.random.Philox(key=seed))
        while True:
            for index, worked in zip(generator.integers(len(problems), size=1024), generator.random(1024), strict=True):
                left, operator, right = problems[index]
                answer = worked_answer(left, operator, right) if worked < 0.5 else solve(left, operator, right)
                yield f"{left}{operator}{right}={answer}"
