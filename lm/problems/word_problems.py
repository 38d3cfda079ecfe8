"""Word problems from templates: a story of somebody's things, whose number changes sentence by sentence."""

from typing import Literal

from pydantic import Field

from lm.problems.answers import MARK, score_of_number
from lm.problems.example import Example, Score
from lm.problems.folder import normalised
from lm.problems.generated import Drawn, Draws, Generated

NAMES = ("Ann", "Ben", "Chidi", "Dina", "Emil", "Fatou", "Goro", "Hana", "Ivan", "Jun", "Kofi", "Lena")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pens", "shells", "stamps", "stickers")
MORE = ("{name} finds {count} more.", "{name} buys {count} more.", "{other} gives {name} {count}.")
FEWER = ("{name} loses {count}.", "{name} gives {other} {count}.", "{name} sells {count}.")
TIMES = ("Then {name} gets so many more that it is {count} times as many.", "A trick makes {count} {things} of each.")
SHARED = ("{name} puts them into {count} equal boxes and keeps one box.",)
BESIDE = ("{other} has {count} {things}.", "{other} is {count} years old.", "The walk home takes {count} minutes.")


class WordProblems(Generated):
    """Stories of up to `steps` changes, which are the level, with up to `distractors` sentences whose number does not matter.
    Numbers stay whole and from 0 to `limit`. Answers are as GSM8K's: the steps, a line each, and the number behind `####`."""

    name: Literal["word_problems"] = "word_problems"
    steps: int = Field(4, gt=0, le=12, description="at most")
    distractors: int = Field(1, ge=0, le=6, description="at most")
    limit: int = Field(200, ge=20, le=100_000, description="of all numbers on the way")

    def draw(self, draws: Draws) -> Drawn:
        name, other = draws.some_of(NAMES, 2)
        words = {"name": name, "other": other, "things": draws.one_of(THINGS)}
        count, value = draws.between(1, self.steps), draws.between(2, 20)
        story, lines = [f"{name} has {value} {words['things']}."], list[str]()
        for _ in range(count):
            templates, operator, number, after = self._change(draws, value)
            story.append(draws.one_of(templates).format(**words, count=number))
            lines.append(f"{value}{operator}{number}={after}")
            value = after
        for _ in range(draws.between(0, self.distractors)):
            place = draws.between(1, len(story))
            story.insert(place, draws.one_of(BESIDE).format(**words, count=draws.between(2, 60)))
        prompt = f"{' '.join(story)} How many {words['things']} does {name} have now?"
        working = "\n".join([*lines, self.terse(str(value))])
        return Drawn(prompt, str(value), working, str(count), normalised(prompt))

    def _change(self, draws: Draws, value: int) -> tuple[tuple[str, ...], str, int, int]:
        """(templates of a sentence, operator, number, what it comes to), which is from 1 to the limit."""
        kind = draws.between(0, 3)
        if kind == 1 and value > 1:
            number = draws.between(1, value - 1)
            return FEWER, "-", number, value - number
        if kind == 2 and value * 2 <= self.limit:
            number = draws.between(2, min(5, self.limit // value))
            return TIMES, "*", number, value * number
        parts = [number for number in range(2, 7) if value % number == 0]
        if kind == 3 and parts:
            number = parts[draws.between(0, len(parts) - 1)]
            return SHARED, "/", number, value // number
        if value < self.limit:
            number = draws.between(1, min(20, self.limit - value))
            return MORE, "+", number, value + number
        return FEWER, "-", 1, value - 1

    def terse(self, answer: str) -> str:
        return f"{MARK} {answer}"

    def score(self, example: Example, text: str) -> Score:
        """1 when the number that the text ends in, after '####' or in \\boxed{}, equals the expected one; else 0."""
        return score_of_number(example.answer, text)
