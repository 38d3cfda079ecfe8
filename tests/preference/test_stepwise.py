"""Pairs of steps, by a script of what is sampled: from each beginning its completions, in place of a model's."""

from typing import Any, Literal

from lm.pairs import Stepwise
from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.problems.example import Example, Score
from lm.sampler import Completion
from tests.preference.made import TOKENIZER, writer

# By what was written: what is sampled next. A dot is the end token; an answer is right if it has a "g" in it.
SCRIPT = {
    "": ["a|g.", "a|b.", "c|b.", "c|b.", "d|g"],  # a| is worth 1/2, c| nothing; d|g did not end
    "a|": ["g|b.", "h|b.", "b|g.", "bz."],  # the first g settles it; one ends here
    "c|": ["b|b.", "b|b.", "b.", "b."],  # all alike
}
END = TOKENIZER.end_id


class Judge:
    """One problem; an answer that begins with z has no verdict."""

    def examples(self, split: str) -> list[Example]:
        return [Example("one", "ask", "", "")]

    def score(self, example: Example, text: str) -> Score:
        return Score(float("g" in text), valid=not text.startswith("z"))


class Scripted(Stepwise):
    """Samples by the script, and keeps what it was asked."""

    name: Literal["stepwise"] = "stepwise"
    script: dict[str, list[str]] = SCRIPT

    def sample_completions(self, given: SourceInputs, prompts: list[list[int]], seed: int) -> list[list[Completion]]:
        return [[completion(text) for text in self.script.get(written(prompt), [])] for prompt in prompts]


def written(prompt: list[int]) -> str:
    return TOKENIZER.decode(prompt[len(TOKENIZER.chat("ask")) :])


def completion(text: str) -> Completion:
    ids = TOKENIZER.encode(text.removesuffix("."))
    return Completion([*ids, END] if text.endswith(".") else ids, [], text.endswith("."))


def pairs_of(seed: int = 0, **settings: Any) -> list[tuple[str, str, str, str]]:
    """(place, beginning, better step, worse step), with a dot for the end token."""
    given = SourceInputs("", None, list, Judge(), writer(), TOKENIZER, seed)  # type: ignore[arg-type] - reads no file
    found = list(Scripted(**{"delimiter": "|", "max_new_tokens": 8, **settings})(given))
    assert all(isinstance(one, Pair) for one in found), found

    def said(ids: list[int]) -> str:
        return TOKENIZER.decode(ids) + "." * (ids[-1] == END)

    return [(one.where, written(one.prompt_ids), said(one.chosen), said(one.rejected)) for one in found]


def test_the_best_step_stands_beside_the_worst_and_a_random_one_goes_on() -> None:
    first = ("one, step 1", "", "a|", "c|")
    found = {tuple(pairs_of(seed)) for seed in range(12)}
    # after a|, g| and b| are worth 1 and the first of them counts, h| and bz. nothing; after c| nothing differs
    assert found == {(first,), (first, ("one, step 2", "a|", "g|", "h|"))}
    assert pairs_of(3) == pairs_of(3)


def test_depth_is_how_many_steps_are_looked_at() -> None:
    assert {tuple(pairs_of(seed, depth=1)) for seed in range(6)} == {(("one, step 1", "", "a|", "c|"),)}


def test_without_a_delimiter_a_step_is_the_answer() -> None:
    script = {"": ["ag.", "ab.", "ab.", "zg."]}
    assert pairs_of(script=script) == [("one, step 1", "", "ag.", "ab.")]
    script = {"": ["a|g.", "b|h.", "a-h.", "b|h."]}
    found = {pairs_of(script=script, delimiter=delimiter)[0][2:] for delimiter in "|-h"}
    assert found == {("a|", "b|"), ("a|g.", "b|h."), ("a|g.", "b|h")}


def test_what_teaches_nothing_is_named() -> None:
    given = SourceInputs("", None, list, Judge(), writer(), TOKENIZER, 0)  # type: ignore[arg-type] - reads no file
    for script in ({"": ["ag.", "bg."]}, {"": ["ag", "b"]}, {"": ["zg.", "z."]}):
        found = list(Scripted(delimiter="|", max_new_tokens=8, script=script)(given))
        assert found == [SkippedRow("one", "no_step_matters", "ask")]
