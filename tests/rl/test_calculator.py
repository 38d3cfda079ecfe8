"""The calculator that a policy may call: values, precedence and what it says of what is no expression."""

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rl.environments.calculator import NoNumber, evaluate, result_of

numbers = st.integers(0, 30).map(lambda n: (str(n), Fraction(n))) | st.sampled_from(
    [("1.5", Fraction(3, 2)), (".25", Fraction(1, 4))]
)


def joined(parts: Any) -> Any:
    (left, x), operator, (right, y) = parts
    value = None
    if x is not None and y is not None:
        try:
            value = {
                "+": lambda: x + y,
                "-": lambda: x - y,
                "*": lambda: x * y,
                "/": lambda: x / y,
                "//": lambda: Fraction(x // y),
                "%": lambda: x % y,
            }[operator]()
        except ZeroDivisionError:
            value = None
    return f"({left}{operator}{right})", value


trees = st.recursive(
    numbers,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(joined)
        | inner.map(lambda part: (f"(-{part[0]})", None if part[1] is None else -part[1]))
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(tree=trees)
def test_values_are_those_of_fractions(tree: tuple[str, Fraction | None]) -> None:
    expression, value = tree
    if value is None:
        with pytest.raises(NoNumber, match="division by zero"):
            evaluate(expression)
    else:
        assert evaluate(expression) == value


@settings(deadline=None, max_examples=300, derandomize=True)
@given(words=st.lists(st.sampled_from(["2", "3", "10", "+", "-", "*", "//", "%", "**", " ", "(", ")"]), max_size=9))
def test_precedence_is_pythons(words: list[str]) -> None:
    """Of what both read: Python has numbers such as 23, calls such as 2(3) and powers of negative exponents that are floats."""
    expression = "".join(words)
    if re.search(r"\d\s*\(|\)\s*[\d(]", expression):
        return  # Python warns of numbers that are called
    try:
        expected = eval(expression)  # noqa: S307 - of the words above
    except (SyntaxError, TypeError, ZeroDivisionError, MemoryError, ValueError, OverflowError):
        return
    if isinstance(expected, int) and abs(expected).bit_length() < 500:
        try:
            found = evaluate(expression)
        except NoNumber as error:
            found = Fraction(expected) if "too large" in str(error) else None  # on the way to it
        assert found == expected


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("47+38", "85"), (" 2 * (3 + 4) ", "14"), ("1/3", "1/3"), ("1/8", "0.125"), ("-7//2", "-4"), ("-7%3", "2"), ("2^10", "1024"),
        ("-2**2", "-4"), ("2**-1", "0.5"), ("2**3**2", "512"), ("6\u00d77", "42"), ("9\u00f72", "4.5"), ("5\u22128", "-3"), ("--3", "3"), ("0**0", "1"),
        ("1**9999999999", "1"), ("(-1)**10000000001", "-1"), ("0**99999", "0"), ("0.1+0.2", "0.3"),
        ("", "error: nothing to compute"), ("  ", "error: nothing to compute"), ("1/0", "error: division by zero"), ("0**-1", "error: division by zero"),
        ("2**0.5", "error: the exponent is no whole number"), ("9**9**9**9", "error: too large"), ("2**2**20", "error: too large"),
        ("99**99*99**99", "error: too large"), ("(" * 300, "error: too long"), ("(" * 150, "error: too deep"), ("(" * 50 + "2" + ")" * 50, "2"), ("(" * 51 + "2" + ")" * 51, "error: too deep"), ("(1)+" * 49 + "(1)", "50"),
        ("1 2", "error: no expression"), ("2(3)", "error: no expression"), ("1+", "error: no expression"), ("x", "error: no expression"),
        ("__import__('os')", "error: no expression"), ("1_000", "error: no expression"), ("\u0661+1", "error: no expression"), ("1e9", "error: no expression"),
        ("1\n+1", "2"), ("1;2", "error: no expression"), ("1=1", "error: no expression"), (".", "error: no expression"), ("1..2", "error: no expression"),
    ],
)  # fmt: skip
def test_what_the_calculator_says(expression: str, result: str) -> None:
    assert result_of(expression) == result


@pytest.mark.parametrize("word", ["(", "-", "2**", "-(", "(-", "2**("])
def test_the_deepest_of_each_kind_is_refused_in_words(word: str) -> None:
    """However deep the stack already is, of whose 1,000 calls no stage takes as many."""

    def within(deeper: int) -> str:
        return within(deeper - 1) if deeper else result_of(word * (200 // len(word)))

    assert within(400) in ("error: too deep", "error: no expression")
