"""Answers: every way to write a number is read as that number, and what is not one number is none."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.problems.answers import LONGEST, Value, equal, final_answer, read_value
from lm.problems.example import Example
from lm.problems.gsm8k import Gsm8k

HALF = Fraction(1, 2)
NUMBERS = {
    # thousands and decimals
    "18": 18, "007": 7, "-0": 0, "+18": 18, "18.": 18, "18.50": Fraction(37, 2), ".5": HALF, ",5": HALF,
    "1,234": 1234, "1,234,567": 1234567, "1,234.5": Fraction(2469, 2), "12,34,567": 1234567, "1,5": Fraction(3, 2),
    "0,234": Fraction(234, 1000), "1.234": Fraction(1234, 1000), "1.234.567": 1234567, "1.234,5": Fraction(2469, 2),
    "1 234": 1234, "1\u00a0234": 1234, "1\u202f234\u202f567": 1234567, "1 234,5": Fraction(2469, 2), "1'234.5": Fraction(2469, 2),
    "1\u2019234": 1234, "1_000": 1000, "1{,}234": 1234, r"1\,234": 1234, r"1\ 234": 1234,
    # signs
    "\u221218": -18, "\u201318": -18, "- 18": -18, "minus 5": -5, "negative 5": -5, "(18)": -18, "($1,234.50)": Fraction(-2469, 2),
    "(-18)": -18, "(+18)": 18, "$(18)": -18,
    # fractions and mixed numbers
    "1/2": HALF, "-1/2": -HALF, "2/4": HALF, "1\u20442": HALF, "\u00bd": HALF, "3\u00bd": Fraction(7, 2), "3 1/2": Fraction(7, 2),
    "-3 1/2": Fraction(-7, 2), "3 and 1/2": Fraction(7, 2), "(1/2)": HALF, "1 234/5": Fraction(1234, 5), "1/2 cup": HALF,
    "0.5/2": Fraction(1, 4),
    # powers of ten
    "1.5e3": 1500, "2.5E-1": Fraction(1, 4), "1.5 \u00d7 10^3": 1500, "1.5 x 10^3": 1500, "1.5\u00b710\u00b3": 1500, "10^3": 1000,
    "1.5*10^{-3}": Fraction(3, 2000), r"1.5 \times 10^3": 1500, "2 million": 2000000, "$2.5 billion": 2500000000,
    # currencies and units
    "$18": 18, "-$18": -18, "$-18": -18, "- $ 18": -18, "\u20ac 18": 18, "18 \u20ac": 18, "18\u20ac": 18, "US$18": 18,
    "USD 18": 18, "18 USD": 18, "Rs. 500": 500, "18\u00a2": 18, "18 dollars": 18, "18 dollars.": 18, "18...": 18, "5 km/h": 5, "18/hour": 18,
    "25 m\u00b2": 25, "25 cm^2": 25, "30\u00b0C": 30, r"30^\circ": 30, "18 (dollars)": 18, "18th": 18, "18\u5143": 18,
    # LaTeX and Markdown
    r"\boxed{18}": 18, r"\frac{1}{2}": HALF, r"\frac12": HALF, r"\dfrac{1}2": HALF, r"-\frac{1}{2}": -HALF, r"\frac{-1}{2}": -HALF,
    r"3\frac{1}{2}": Fraction(7, 2), r"\boxed{\frac{1}{2}}": HALF, r"\text{18}": 18, r"18\text{ dollars}": 18,
    r"\text{18 dollars}": 18, r"\mathrm{18}": 18, r"\$18": 18, "$18$": 18, r"$\frac{1}{2}$": HALF, r"\(18\)": 18, r"\[ 18 \]": 18,
    "**18**": 18, "`18`": 18, r"\left(-18\right)": -18,
    # words before, other digits
    "x = 18": 18, "= 18": 18, "The answer is 18": 18, "Answer: $18.": 18, "\u0661\u0662": 12, "\uff11\uff12": 12,
    "\u0661\u066b\u0665": Fraction(3, 2),
}  # fmt: skip
NONE = [
    "", " ", "$", "%", "-", "seven", "nan", "inf", "Infinity", "NOT 18", "about eighteen", "18 or 19", "18 and 19", "18, 19", "12 13",
    "1,2,3", "1.2.3", "1..2", "1,23,4", "1 1", "10:30", "3:4", "3-4", "3 - 4", "18 + x", "2x", "2\u03c0", "2 pi", "5!", "2^10",
    "10^10^10", r"\sqrt{2}", "1/0", r"\frac{1}{0}", "1/2/3", "1/-2", "--5", "-(5)", "((5))", "1e", "e5", "1e100", "1e999999999",
    "0x12", "5k", "$2.5M", "3bn", "2 dozen", "18\u4e07", "18 dollars and 50 cents", "5 feet 3 inches", "18-", r"\frac{1}{2",
    "9" * (LONGEST + 1), "9" * 100, "0.333...", "0.333\u2026", "$0.33..", "0.333... dollars",
]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read_exactly(text: str) -> None:
    found = read_value(text)
    assert found == Value(Fraction(NUMBERS[text])), "equal as fractions"
    assert read_value(str(found)) == found
    assert Gsm8k().score(Example("a", "q", str(found), ""), f"some words\n#### {text}").value == 1
    assert Gsm8k().score(Example("a", "q", str(found.number + 1), ""), f"#### {text}").value == 0


@pytest.mark.parametrize("text", NONE)
def test_what_is_not_one_number_is_none(text: str) -> None:
    assert read_value(text) is None
    assert Gsm8k().score(Example("a", "q", "18", ""), f"#### {text}").value == 0


def test_a_percentage_is_its_number_or_its_hundredth() -> None:
    for text in ("50%", "50 %", r"50\%", "50 percent", "50 per cent", "50.0%", "\uff15\uff10\uff05"):
        found = read_value(text)
        assert found == Value(Fraction(50), percent=True) == read_value(str(found))
        for other, same in (
            ("50", True),
            ("0.5", True),
            ("1/2", True),
            ("50%", True),
            ("0.5%", False),
            ("5000", False),
        ):
            value = read_value(other)
            assert value is not None and equal(found, value) == equal(value, found) == same


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("Two. #### 2", "2"),
        ("####18\n####19", "19"),
        ("#### 18\nand more 5", "18"),
        ("####\n18", "18"),
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{5} #### 6", "6"),
        ("#### 6\nso \\boxed{7}", "7"),
        (r"#### \boxed{18}", r"\boxed{18}"),
        (r"\fbox{18}", "18"),
        (r"\boxed{18", None),
        ("####", None),
        ("18", None),
    ],
)
def test_where_the_final_answer_stands(text: str, final: str | None) -> None:
    assert final_answer(text) == final


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.fractions(max_denominator=10**6), st.booleans())
def test_every_value_is_written_so_that_it_is_read_back(number: Fraction, percent: bool) -> None:
    assert read_value(str(Value(number, percent))) == Value(number, percent)


@settings(deadline=None, max_examples=500, derandomize=True)
@given(st.text("0123456789.,' -+$%/()e^\\{}frac=a\u2212\u00bd\u00b3", max_size=30))
def test_no_text_is_an_error(text: str) -> None:
    found = read_value(text)
    assert found is None or read_value(str(found)) == found


def test_no_text_takes_long() -> None:
    """A regular expression that tries every division of a text would take years over these."""
    began = time.process_time()
    for piece in (
        "1 ",
        "$ ",
        "a ",
        "-",
        "(",
        "1,",
        "= ",
        "a=",
        "1 and ",
        "m^2",
        "A$",
        "answer is ",
        "answer: ",
        "abc",
        "ab (",
        "USD ",
        r"\text{",
        "10^",
        "km/",
        "1'",
        "x*",
    ):
        for end in ("", "!", "9", "9!"):
            for start in ("", "6 ", "6"):  # words behind a number are units, of which there may be many
                read_value((start + piece * LONGEST)[: LONGEST - len(end)] + end)
    assert time.process_time() - began < 20
