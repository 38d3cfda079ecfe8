"""A calculator: `<<12*(3+4)>>` is followed by `[[84]]`, computed exactly."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from pydantic import Field

from lm.problems.answers import Value
from tasks.rl.environments.calls import MARK, Calls

LONGEST = 200  # characters of an expression
# Parentheses that it may open. Each is six calls of the reader within one another, and Python has room for 1,000, of which a
# stage takes some; a sign or a power is one, of which LONGEST allows no more than 200.
DEEPEST = 50
MOST_BITS = 1024  # of a numerator or a denominator
TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\*\*|//|[-+*/%^()\u00d7\u00f7\u2212])", re.ASCII)
SAME = {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "^": "**"}


class NoNumber(ValueError):
    """What an expression does not give, and why."""


def evaluate(expression: str) -> Fraction:
    """The value of sums, differences, products, quotients, `//`, `%` and powers with whole exponents of decimals, by Python's
    rules of precedence: -2**2 is -4, and 2**3**2 is 512. Raises NoNumber, in words."""
    return _Reader(expression).value()


class _Reader:
    """Reader of one expression."""

    def __init__(self, expression: str) -> None:
        text = expression.strip()
        if not text:
            raise NoNumber("nothing to compute")
        if len(text) > LONGEST:
            raise NoNumber("too long")
        self._words, at = list[str](), 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if not found:
                raise NoNumber("no expression")
            self._words.append(SAME.get(found[1], found[1]))
            at = found.end()
        if self._words.count("(") > DEEPEST:
            raise NoNumber("too deep")
        self._at = 0

    def value(self) -> Fraction:
        found = self._sum()
        if self._at < len(self._words):
            raise NoNumber("no expression")
        return found

    def _next(self, *allowed: str) -> str | None:
        """The next word where it is one of these, which is then read."""
        if self._at < len(self._words) and self._words[self._at] in allowed:
            self._at += 1
            return self._words[self._at - 1]
        return None

    def _sum(self) -> Fraction:
        return self._row(self._product, "+", "-")

    def _product(self) -> Fraction:
        return self._row(self._signed, "*", "/", "//", "%")

    def _row(self, part: Callable[[], Fraction], *operators: str) -> Fraction:
        """Parts that operators of one precedence join, from the left."""
        found = part()
        while operator := self._next(*operators):
            found = applied(found, operator, part())
        return found

    def _signed(self) -> Fraction:
        if sign := self._next("-", "+"):
            found = self._signed()
            return -found if sign == "-" else found
        base = self._atom()
        return applied(base, "**", self._signed()) if self._next("**") else base

    def _atom(self) -> Fraction:
        if self._next("("):
            found = self._sum()
            if not self._next(")"):
                raise NoNumber("no expression")
            return found
        if self._at == len(self._words) or not re.match(r"[\d.]", self._words[self._at], re.ASCII):
            raise NoNumber("no expression")
        self._at += 1
        return bounded(Fraction(self._words[self._at - 1]))


def applied(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """The value of one operation. Raises NoNumber."""
    if operator in ("/", "//", "%") and not right:
        raise NoNumber("division by zero")
    if operator == "**":
        return power(left, right)
    operations: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "//": lambda a, b: Fraction(a // b),
        "%": lambda a, b: a % b,
    }
    return bounded(operations[operator](left, right))


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """A power with a whole exponent. Raises NoNumber before it computes one that is too large."""
    if exponent.denominator != 1:
        raise NoNumber("the exponent is no whole number")
    if not base and exponent < 0:
        raise NoNumber("division by zero")
    if abs(base) not in (0, 1) and bits(base) * abs(exponent) > 2 * MOST_BITS:
        raise NoNumber("too large")
    return bounded(base ** int(exponent % 2 if abs(base) == 1 else exponent))


def bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def bounded(number: Fraction) -> Fraction:
    """The number. Raises NoNumber for one of more than MOST_BITS."""
    if bits(number) > MOST_BITS:
        raise NoNumber("too large")
    return number


class Calculator(Calls):
    """Results are exact: an integer, a decimal where it ends within 20 places, else a fraction in lowest terms."""

    name: Literal["calculator"] = "calculator"
    begin: str = Field("<<", pattern=MARK, description="what begins a call")
    end: str = Field(">>", pattern=MARK, description="what ends it")
    result_begin: str = Field("[[", pattern=MARK, description="what the environment begins a result with")
    result_end: str = Field("]]", pattern=MARK, description="what it ends it with")

    def results(self, calls: list[str]) -> list[str]:
        return [result_of(call) for call in calls]


def result_of(expression: str) -> str:
    """The value as it is written, or `error: ` and why there is none."""
    try:
        return str(Value(evaluate(expression)))
    except NoNumber as error:
        return f"error: {error}"
