"""Problems that are made up: right, of every level, the same of a seed, and no split with a problem of another one."""

import re
from collections import Counter
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import problems
from lm.config import methods_of
from lm.problems import Chains, Counting, Sorting, WordProblems
from lm.problems.example import Example
from lm.problems.folder import normalised
from lm.problems.generated import Draws, Generated
from tests.neighbours import assert_all_differ, neighbours

SPLITS = ("sft", "rl", "test")
METHODS = [method for method in methods_of(problems) if issubclass(method, Generated)]
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
quick = settings(deadline=None, max_examples=30, derandomize=True)


def every(chosen: Any) -> list[Example]:
    return [example for split in SPLITS for example in chosen.examples(split)]


def steps_of(working: str) -> list[tuple[int, int]]:
    """(what each step's left side comes to, its right side)."""
    steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", working)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    return [(operations[operator](int(left), int(right)), int(result)) for left, operator, right, result in steps]


def test_chains_are_right_as_python_has_them() -> None:
    chosen = Chains(worked_fraction=1.0, drawn=1500)
    for example in every(chosen):
        expression = example.prompt.removesuffix("=")
        assert re.fullmatch(r"[-+*()0-9]+", expression)
        assert eval(expression) == int(example.answer)  # noqa: S307 - digits, signs and parentheses
        steps = steps_of(example.demonstration)
        assert all(left == right and 0 <= right <= chosen.limit for left, right in steps)
        assert len(steps) == int(example.level or 0) == len(re.findall("[-+*]", expression))
        assert str(steps[-1][1]) == example.answer == example.demonstration.rpartition(": ")[2]


def test_sorted_numbers_are_sorted() -> None:
    for example in every(Sorting(worked_fraction=1.0, drawn=1500)):
        way, *given = example.prompt.removesuffix(":").split(" ")
        found = sorted(map(int, given), reverse=way == "down")
        assert way in ("up", "down") and example.level == str(len(given))
        assert example.answer == " ".join(map(str, found)) == example.demonstration.rpartition(": ")[2]


def test_letters_are_counted() -> None:
    for example in every(Counting(worked_fraction=1.0, drawn=1500)):
        asked, _, text = example.prompt.removesuffix(":").partition(" in ")
        assert example.answer == str(text.count(asked)) == example.demonstration.rpartition(": ")[2]
        assert int(example.level or 0) - 5 < len(text) <= int(example.level or 0)


CHANGES = (
    (r"(?:finds|buys) (\d+) more|gives NAME (\d+)\.", lambda value, n: value + n),
    (r"NAME loses (\d+)|NAME gives \w+ (\d+)|NAME sells (\d+)", lambda value, n: value - n),
    (r"is (\d+) times as many|makes (\d+) \w+ of each", lambda value, n: value * n),
    (r"into (\d+) equal boxes", lambda value, n: value // n if value % n == 0 else -1),
)


def told(prompt: str) -> int:
    """The number that a story comes to, read sentence by sentence."""
    first, *sentences = re.findall(r"[^.?]+[.?]", prompt)
    name, value = re.match(r"(\w+) has (\d+)", first).groups()  # type: ignore[union-attr]
    value = int(value)
    for sentence in sentences:
        for form, change in CHANGES:
            if found := re.search(form.replace("NAME", name), sentence):
                value = change(value, int(next(filter(None, found.groups()))))
                break
    return value


def test_stories_come_to_what_is_said_and_distractors_do_not_matter() -> None:
    for distractors in (0, 4):
        chosen = WordProblems(distractors=distractors, worked_fraction=1.0, drawn=1500)
        for example in every(chosen):
            assert told(example.prompt) == int(example.answer), example.prompt
            steps = steps_of(example.demonstration)
            assert len(steps) == int(example.level or 0)
            assert all(left == right and 0 < right <= chosen.limit for left, right in steps)
            assert example.demonstration.endswith(f"#### {example.answer}")


@EVERY
def test_a_seed_says_which_and_no_seed_trains_on_the_test_of_another(method: Any) -> None:
    assert every(method(drawn=300)) == every(method(drawn=300))
    fewer = method(drawn=300).examples("rl")
    assert fewer == method(drawn=600).examples("rl")[: len(fewer)]
    first, second = method(drawn=600), method(drawn=600, seed=1)
    assert every(first) != every(second)
    for one, other in ((first, second), (second, first), (first, first)):
        test = {normalised(example.prompt) for example in one.examples("test")}
        assert not test & {normalised(e.prompt) for split in ("sft", "rl") for e in other.examples(split)}


def turned(example: Example) -> list[str]:
    """Other prompts that ask the same."""
    if found := re.fullmatch(r"(\(*)(\d+)([+*])(\d+)(.*)", example.prompt):
        return [f"{found[1]}{found[4]}{found[3]}{found[2]}{found[5]}"]
    if example.prompt.startswith(("up ", "down ")):
        way, *numbers = example.prompt.removesuffix(":").split(" ")
        return [f"{other} {' '.join(order)}:" for other in ("up", "down") for order in (sorted(numbers), numbers[::-1])]
    return []


@pytest.mark.parametrize("method", [Chains, Sorting])
def test_no_split_has_a_problem_of_another_turned_round(method: Any) -> None:
    chosen = {split: method(drawn=3000).examples(split) for split in SPLITS}
    split_of_prompt = {example.prompt: split for split, examples in chosen.items() for example in examples}
    split_of_prompt |= {e.prompt: s for s in SPLITS for e in method(drawn=3000, seed=1).examples(s)}
    met = 0
    for example in chain.from_iterable(chosen.values()):
        own, others = split_of_prompt[example.prompt], [split_of_prompt.get(prompt) for prompt in turned(example)]
        met += sum(other is not None for other in others)
        assert set(others) <= {own, None}
    assert met > 10


@EVERY
def test_every_level_is_there_and_demonstrations_are_terse_at_will(method: Any) -> None:
    levels = Counter(example.level for example in every(method(drawn=2000)))
    assert len(levels) >= 3 and min(levels.values()) > 10
    assert all(e.demonstration.removeprefix("#### ") == e.answer for e in every(method(worked_fraction=0.0, drawn=50)))


@EVERY
def test_every_parameter_counts(method: Any) -> None:
    base = method(drawn=200)
    names = set(method.model_fields) - {"name", "folder"}  # the folder is unused, and said to be
    tries = [[{"method": other} for other in others] for name in sorted(names) for others in neighbours(base, name)]
    assert_all_differ(lambda changes: tuple(every(changes.get("method", base))), tries)


# Answers that look like one of the grammar `(working:) number`, and are none or another one
NEAR = (
    "{n}{d}", "{d}{n}", "{n} {d}", "{d} {n}", "-{n}", "0{n}", "{n}.", "{n}.0", "={n}", "{n}=", "a: {d}{n}", ": {n} {n}", "a: b: {n}", "{n}:",
    "{n}: {other}", "{n}\n{other}", "{other}", "{other}: {other}", "the answer is {n}", "#### {n}", "{n} or {other}", "\u0661", "",
)  # fmt: skip


@pytest.mark.parametrize("chosen", [Chains(), Counting()], ids=lambda chosen: chosen.name)
@quick
@given(number=st.integers(0, 99), near=st.sampled_from(NEAR), digit=st.integers(0, 9), by=st.integers(1, 9))
def test_what_is_near_a_right_number_is_wrong(chosen: Any, number: int, near: str, digit: int, by: int) -> None:
    example = Example("", "", str(number), "")
    text = near.format(n=number, d=digit, other=number + by)
    assert chosen.score(example, text).value == 0, text
    for right in (f"{number}", f" {number}\n", f"{number + by}+1: {number}", f"a\nb:{number}"):
        assert chosen.score(example, right).value == 1


@quick
@given(numbers=st.lists(st.integers(0, 99), min_size=2, max_size=6), data=st.data())
def test_what_is_near_a_right_order_is_wrong(numbers: list[int], data: st.DataObject) -> None:
    row = " ".join(map(str, sorted(numbers)))
    example, words = Example("", "", row, ""), row.split(" ")
    near = [
        " ".join(data.draw(st.permutations(words))), " ".join(reversed(words)), " ".join(dict.fromkeys(words)), row.replace(" ", ""),
        row.replace(" ", ", "), row.replace(" ", "  "), f"{row} {words[-1]}", " ".join(words[1:]), f"{row}.", f"0{row}", f"a: b: {row}",
        row.replace(" ", "\n"), f"{row}: {words[0]}", row.replace(" ", " < "),
    ]  # fmt: skip
    for text in near:
        assert Sorting().score(example, text).value == float(text == row), text
    for right in (row, f" {row} ", f"so: {row}"):
        assert Sorting().score(example, right).value == 1


def test_draws_are_of_seed_and_number_and_within_their_ends() -> None:
    rows = [[Draws(seed, number).between(0, 1 << 40) for number in range(3)] for seed in range(2)]
    assert rows == [[Draws(seed, number).between(0, 1 << 40) for number in range(3)] for seed in range(2)]
    assert len({value for row in rows for value in row}) == 6
    draws = Draws(0, 0)
    assert {draws.between(2, 4) for _ in range(100)} == {2, 3, 4} and draws.between(5, 5) == 5
    assert sorted(draws.some_of("abc", 3)) == list("abc")
