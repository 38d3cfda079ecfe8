"""How often a letter stands in a text: `b in abcab:` is 2."""

from typing import Literal

from pydantic import Field

from lm.problems.example import Example, Score, behind_working
from lm.problems.generated import Drawn, Draws, Generated

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Counting(Generated):
    """Texts of up to `longest` letters, which are the first `letters` of the alphabet; the level is the length, in fives: a
    text of 17 letters is of level 20. The working counts on at each letter that is asked for: `a b1 c a b2: 2`."""

    name: Literal["counting"] = "counting"
    longest: int = Field(20, ge=2, le=1000, description="letters of a text, at most")
    letters: int = Field(4, ge=2, le=26, description="different ones")

    def draw(self, draws: Draws) -> Drawn:
        text = "".join(draws.one_of(ALPHABET[: self.letters]) for _ in range(draws.between(2, self.longest)))
        asked, count, steps = draws.one_of(ALPHABET[: self.letters]), 0, list[str]()
        for letter in text:
            count += letter == asked
            steps.append(f"{letter}{count}" if letter == asked else letter)
        prompt = f"{asked} in {text}:"
        return Drawn(prompt, str(count), f"{' '.join(steps)}: {count}", str(-(-len(text) // 5) * 5), prompt)

    def score(self, example: Example, text: str) -> Score:
        """1 when the text is the count, or ends in it after a colon; else 0."""
        return Score(float(behind_working(text, r"\d+") == example.answer))
