"""Numbers put in order: `up 31 4 15:` is 4 15 31, and `down 31 4 15:` is 31 15 4."""

from typing import Literal

from pydantic import Field

from lm.problems.example import Example, Score, behind_working
from lm.problems.generated import Drawn, Draws, Generated


class Sorting(Generated):
    """Up to `numbers` numbers of up to `digits` digits, some of them twice; how many they are is the level. The working takes
    the next one again and again, with what is left: `4 of 31 4 15, 15 of 31 15, 31: 4 15 31`. The same numbers in another
    order, or put in order the other way, are the same problem."""

    name: Literal["sorting"] = "sorting"
    numbers: int = Field(6, ge=2, le=50, description="at most")
    digits: int = Field(2, ge=1, le=6)

    def draw(self, draws: Draws) -> Drawn:
        count, way = draws.between(2, self.numbers), draws.one_of(("up", "down"))
        given = [draws.between(0, 10 ** draws.between(1, self.digits) - 1) for _ in range(count)]
        answer, left, steps = sorted(given, reverse=way == "down"), list(given), list[str]()
        for number in answer:
            steps.append(f"{number} of {_row(left)}" if len(left) > 1 else str(number))
            left.remove(number)
        working = f"{', '.join(steps)}: {_row(answer)}"
        return Drawn(f"{way} {_row(given)}:", _row(answer), working, str(count), _row(sorted(given)))

    def score(self, example: Example, text: str) -> Score:
        """1 when the text is the numbers in their order with one space between two, or ends in them after a colon; else 0."""
        return Score(float(behind_working(text, r"\d+(?: \d+)*") == example.answer))


def _row(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
