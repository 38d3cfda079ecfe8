"""Questions with choices, in the layout of MMLU (arXiv:2009.03300): JSON lines of `question`, `choices` and `answer`, with an
`explanation`, an `id` and a `level` where they have them."""

import json
import re
from typing import Any, ClassVar, Literal, NamedTuple

from lm.config import ConfigError
from lm.problems.answers import MARK, final_answer
from lm.problems.example import Example, Score
from lm.problems.folder import Folder, id_of, level_of, normalised, text_of

LETTERS = "ABCDEFGHIJ"
NEEDS = "a JSON object with `question`, `choices` (2 to 10 different texts) and `answer`"


class Question(NamedTuple):
    """A question, its choices, and the place of the right one."""

    text: str
    choices: list[str]
    right: int


def question_of(where: str, row: dict[str, Any]) -> Question:
    """What a row asks; `answer` is the place of the right choice, its letter or its text. Raises ConfigError naming where, and
    what is wrong."""
    question, choices = text_of(row, "question", where, NEEDS), row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ConfigError(f"{where}: needs {NEEDS}: `choices` is {choices!r}")
    if not 2 <= len({normalised(choice) for choice in choices}) == len(choices) <= len(LETTERS):
        raise ConfigError(f"{where}: needs {NEEDS}: `choices` is {choices!r}")
    return Question(question, choices, place_of(where, row.get("answer"), choices))


def place_of(where: str, answer: Any, choices: list[str]) -> int:
    """Place of the right choice. Raises ConfigError where it is none, or might be two."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    found = [place for place, choice in enumerate(choices) if choice == answer]
    if isinstance(answer, str) and answer in tuple(LETTERS[: len(choices)]):
        found.append(LETTERS.index(answer))
    if len(set(found)) != 1:
        what = "is both a letter and the text of another choice" if found else "is none of the choices"
        raise ConfigError(f"{where}: `answer` {answer!r} {what}: give the place of the right one, from 0 on")
    return found[0]


class MultipleChoice(Folder):
    """A prompt is the question and a line for each choice, `A. ` and so on. `answer` is a choice's letter, its place from 0 on
    as MMLU has it, or its text. The same question with other choices is in the same split."""

    name: Literal["multiple_choice"] = "multiple_choice"
    needs: ClassVar[str] = NEEDS

    def example(self, where: str, row: dict[str, Any]) -> Example:
        question, choices, right = question_of(where, row)
        letter = LETTERS[right]
        shown = f"{row['explanation']}\n{MARK} {letter}" if isinstance(row.get("explanation"), str) else letter
        answer = json.dumps({"letter": letter, "choices": choices}, ensure_ascii=False)
        return Example(id_of(row, where), question + lines_of(choices), answer, shown, level_of(row, where))

    def key(self, example: Example) -> str:
        return normalised(example.prompt.removesuffix(lines_of(json.loads(example.answer)["choices"])))

    def score(self, example: Example, text: str) -> Score:
        """1 when the text, or what stands in its last \\boxed{} or after its last '####', is the letter of the right choice,
        alone or with that choice's text; else 0."""
        expected = json.loads(example.answer)
        final = final_answer(text)
        chosen = letter_of(text if final is None else final, expected["choices"])
        return Score(float(chosen == expected["letter"]))


def lines_of(choices: list[str]) -> str:
    """What a prompt ends in: a line for each choice, behind its letter."""
    return "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def letter_of(text: str, choices: list[str]) -> str | None:
    """The one choice that a text names: `B`, `(B)`, `B.`, `B. its text`; None where it names none, two, or another one's
    text."""
    found = re.fullmatch(r"(?:\(([A-J])\)|([A-J]))[.:)]?(?:\s+(.*))?", text.strip(), re.DOTALL)
    letter = (found[1] or found[2]) if found else None
    if found is None or letter is None or LETTERS.index(letter) >= len(choices):
        return None
    right = normalised(choices[LETTERS.index(letter)].rstrip("."))
    return letter if found[3] is None or normalised(found[3].rstrip(".")) == right else None
