"""Grade-school word problems in the layout of GSM8K (arXiv:2110.14168): JSON lines of `question` and `answer`, with an `id` and
a `level` where they have them."""

from typing import Any, ClassVar, Literal

from lm.config import ConfigError
from lm.problems.answers import final_answer, read_value, score_of_number
from lm.problems.example import Example, Score
from lm.problems.folder import Folder, id_of, level_of, text_of


class Gsm8k(Folder):
    """An answer ends in its number, behind '####' or in \\boxed{}."""

    name: Literal["gsm8k"] = "gsm8k"
    needs: ClassVar[str] = "a JSON object with strings `question` and `answer`"

    def example(self, where: str, row: dict[str, Any]) -> Example:
        question, answer = (text_of(row, name, where, self.needs) for name in ("question", "answer"))
        level, final = level_of(row, where), final_answer(answer)
        if final is None:
            raise ConfigError(f"{where}: the answer has no number after '####', and no \\boxed{{}}")
        value = read_value(final)
        if value is None:
            raise ConfigError(
                f"{where}: the answer's final {final!r} is not one number; write it as 18, 1/2, 0.5 or 50%"
            )
        return Example(id_of(row, where), question, str(value), answer, level)

    def score(self, example: Example, text: str) -> Score:
        """1 when the number that the text ends in, after '####' or in \\boxed{}, equals the expected one; else 0."""
        return score_of_number(example.answer, text)
