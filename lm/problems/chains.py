"""Several operations, one on what came of the one before: `((7+5)*3)-4=`."""

from typing import Literal

from pydantic import Field

from lm.problems.example import Example, Score, behind_working
from lm.problems.generated import Drawn, Draws, Generated


class Chains(Generated):
    """Sums, differences and products of up to `operations` operations, which are the level; none of what they come to on the
    way is negative or above `limit`. The working is one operation after another: `7+5=12 12*3=36 36-4=32: 32`."""

    name: Literal["chains"] = "chains"
    operations: int = Field(4, gt=0, le=16, description="at most")
    limit: int = Field(99, ge=9, le=999_999, description="of all that numbers come to")

    def draw(self, draws: Draws) -> Drawn:
        count = draws.between(1, self.operations)
        first = value = draws.between(0, min(self.limit, 20))
        written, steps, taken = str(first), list[str](), list[tuple[str, int]]()
        for place in range(count):
            operator, operand = self._next(draws, value)
            after = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
            steps.append(f"{value}{operator}{operand}={after}")
            written = f"{f'({written})' if place else written}{operator}{operand}"
            taken.append((operator, operand))
            value = after
        # of the first two numbers the order does not count where they are added or multiplied
        operator, operand = taken[0]
        ends = sorted((first, operand)) if operator in "+*" else [first, operand]
        key = f"{ends[0]}{operator}{ends[1]}" + "".join(f"{operator}{operand}" for operator, operand in taken[1:])
        return Drawn(f"{written}=", str(value), f"{' '.join(steps)}: {value}", str(count), key)

    def _next(self, draws: Draws, value: int) -> tuple[str, int]:
        """An operation that leads to a number from 0 to the limit."""
        operator = draws.one_of("+-*")
        if operator == "*" and value <= self.limit // 2:
            return operator, draws.between(2, max(2, min(9, self.limit // max(value, 1))))
        if operator == "-" and value:
            return operator, draws.between(1, value)
        if value < self.limit:
            return "+", draws.between(1, min(self.limit - value, 20))
        return "-", draws.between(1, value)

    def score(self, example: Example, text: str) -> Score:
        """1 when the text is the answer, or ends in it after a colon; else 0."""
        return Score(float(behind_working(text, r"\d+") == example.answer))
