"""The number that an answer ends in, read exactly: 1,234.50 and 1.234,5 and 3 1/2 and \\frac12 and $18 and 50% and 1.5e3.

Numbers are fractions, so that 0.1 is a tenth and 1/3 is no decimal. Units and currencies are not compared. What may be two
numbers, or an expression, is none: `18 or 19`, `10:30`, `2x`. Where a mark may be either, `1,234` is a thousand and more,
`1,5` is one and a half, and `1.234` is less than two. A number in parentheses without a sign is negative, as in accounts.
"""

import re
import unicodedata
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple

from lm.problems.example import Score

# A final answer is short; what is longer is a text, or a number made to take long.
LONGEST = 200
MARK = "####"
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
CHARACTERS = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-")
    | dict.fromkeys("\u00a0\u2007\u2008\u2009\u200a\u202f\u3000\t", " ")
    | dict.fromkeys("\u2019\u02bc\uff07", "'")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\u00d7\u00b7\u22c5\u2217", "*")
    | {"\u066b": ".", "\u066c": ",", "\uff0c": ",", "\uff0e": ".", "\uff0b": "+", "\uff05": "%", "\u066a": "%"}
    | dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff", None)
)
POWERS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-")
# Words after a number that make another one of it, or two; all other words are units.
NO_UNIT = re.compile(
    r"pi|e|or|to|and|through|dozens?|score|half|halves|(third|quarter|fifth|tenth|hundredth|thousandth)s?|plus|minus|less|over|"
    r"sqrt|root|log|ln|sin|cos|tan|squared|cubed|factorial|mod|bn|mn|mln|mio|mrd|tn|lakhs?|crores?"
)
# One letter after a number is a variable, a constant or a thousand, save for these; so much for Latin and Greek.
LETTER_UNITS, LAST_VARIABLE = set("mshglLAWVNJCFKt"), "\u03ff"
CHINESE_SCALES = set("\u767e\u5343\u4e07\u842c\u4ebf\u5104")
# Of a fraction's two numbers: what reads them and writes them takes no time, and `LONGEST` holds both.
MOST_BITS = 300

NUMBER = r"(?:\d+(?:[.,'_ ]\d+)*|[.,]\d+)"
CODES = (
    "USD|EUR|GBP|JPY|CNY|RMB|INR|AUD|CAD|NZD|CHF|SEK|NOK|DKK|PLN|CZK|HUF|RUB|TRY|ILS|BRL|MXN|ZAR|KRW|SGD|HKD|THB|IDR"
)
CURRENCY = (
    rf"(?-i:[A-Z]{{0,3}}[$\u20ac\u00a3\u00a5\u20b9\u20bd\u20a9\u20ba\u20aa\u0e3f\u00a2]|(?:{CODES})\b|Rs\b\.?|kr\b\.?)"
)
BEFORE = r"(?:(?:the )?(?:final )?answer(?: is)?:?|[A-Za-z]\w* ?[=\u2248]|[=\u2248~:])"
POWER = r"(?:[eE](?P<e>[+-]?\d{1,2})(?!\d)| ?[*xX]? ?10 ?\^ ?(?P<ten>[+-]?\d{1,2}(?!\d)))"
VALUE = (
    rf"(?:(?P<whole>\d+) (?:and )?(?P<part>\d+) ?/ ?(?P<of>\d+)|(?P<over>{NUMBER}) ?/ ?(?P<under>{NUMBER})"
    rf"|(?P<number>{NUMBER}){POWER}?|(?P<one>)10 ?\^ ?(?P<alone>[+-]?\d{{1,2}})(?!\d))"
)
SCALE = rf"(?: (?P<scale>{'|'.join(SCALES)})s?\b)?"
PERCENT = r"(?P<percent> ?%| per ?cent\b)?"
# What repeats gives nothing back (`*+`): else a text of n words or blanks that states no number is tried in 2^n ways
AFTER = rf"(?P<after>(?:[ ]?\(?[-/*]?[ ]?(?:\u00b0|[^\W\d_]+)(?:\^?-?[23]\b|[\u00b2\u00b3])?['.]?\)?|[ ]?{CURRENCY})*+)"
SIGN = r"(?P<sign{0}>[-+]|minus |negative )?"
ANSWER = re.compile(
    rf"(?:{BEFORE} ?)*+{SIGN.format(1)} ?{CURRENCY}? ?(?:{SIGN.format(2)} ?{VALUE}|(?P<open>\()(?P<inner>[^()]+)\))"
    rf"{SCALE}{PERCENT}{AFTER}",
    re.IGNORECASE,
)


class Value(NamedTuple):
    """A number as it is written: 50% is 50 and a percentage."""

    number: Fraction
    percent: bool = False

    def __str__(self) -> str:
        """The shortest way that `read_value` reads back: an integer, a decimal, else a fraction."""
        top, bottom = self.number.numerator, self.number.denominator
        places = 0
        while bottom > 1 and 10**places % bottom and places < 20:
            places += 1
        if 10**places % bottom:
            text = f"{top}/{bottom}"
        else:
            digits = str(abs(top) * 10**places // bottom).zfill(places + 1)
            text = "-" * (top < 0) + digits[: len(digits) - places] + ("." + digits[-places:] if places else "")
        return text + "%" * self.percent


def equal(left: Value, right: Value) -> bool:
    """Whether two are the same number. A percentage equals its number, whose unit it then is, as well as its hundredth."""
    if left.percent == right.percent:
        return left.number == right.number
    of_hundred, other = (left, right) if left.percent else (right, left)
    return other.number in (of_hundred.number, of_hundred.number / 100)


def score_of_number(expected: str, text: str) -> Score:
    """1 when the number that the text ends in, after '####' or in \\boxed{}, equals the expected one; else 0. Invalid where the
    expected one cannot be read."""
    value = read_value(expected)
    if value is None:
        return Score(0.0, valid=False)
    final = final_answer(text)
    found = read_value(final) if final is not None else None
    return Score(float(found is not None and equal(found, value)))


def final_answer(text: str) -> str | None:
    """What stands in the last \\boxed{} or after the last '####' up to the line's end, whichever comes later; None without."""
    mark, box = text.rfind(MARK), max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if box > mark:
        inside = _braced(text, text.find("{", box))
        if inside is not None and (mark < 0 or "\n" in text[mark:box]):
            return inside
    if mark < 0:
        return None
    lines = text[mark + len(MARK) :].strip().splitlines()
    return lines[0] if lines else None


def read_value(text: str) -> Value | None:
    """The one number that a text states; None where there is none, or more than one."""
    if len(text) > LONGEST:
        return None
    if re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        return Value(Fraction(int(text)))
    plain = _plain(text)
    found = ANSWER.fullmatch(plain) if plain is not None else None
    if found is None or not _is_unit(found["after"]):
        return None
    number, signs = _number(found), [found["sign1"], found["sign2"]]
    if found["open"]:
        inner = read_value(found["inner"])
        if inner is None or inner.percent:
            return None
        signed = inner.number < 0 or "/" in found["inner"] or re.match(r"\s*\+", found["inner"])
        number = inner.number if signed else -inner.number
        if signs[0]:
            return None
    if number is None or all(signs):
        return None
    if any(sign and sign != "+" for sign in signs):
        number = -number
    number *= 10 ** SCALES.get((found["scale"] or "").lower(), 0)
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MOST_BITS:
        return None
    return Value(number, found["percent"] is not None)


def _number(found: re.Match[str]) -> Fraction | None:
    """The number that VALUE matched, without its sign."""
    if found["whole"]:
        whole, part, of = (int(found[name]) for name in ("whole", "part", "of"))
        if part < of:
            return whole + Fraction(part, of)
        # 1 234/5 is no mixed number: its space divides thousands
        top = _decimal(f"{found['whole']} {found['part']}")
        return None if top is None or not of else top / of
    if found["over"]:
        top, bottom = _decimal(found["over"]), _decimal(found["under"])
        return None if top is None or not bottom else top / bottom
    if found["alone"]:
        return Fraction(10) ** int(found["alone"])
    if found["number"]:
        number, power = _decimal(found["number"]), int(found["e"] or found["ten"] or 0)
        return None if number is None else number * Fraction(10) ** power
    return None


def _decimal(text: str) -> Fraction | None:
    """A number whose digits may be grouped; None where its groups are none."""
    marks = re.findall(r"\D", text)
    points = [mark for mark in marks if mark in ".,"]
    point = ""
    if len(set(points)) == 2 or (points and len(points) < len(marks)):
        point = points[-1]  # of two kinds the last one
    elif len(points) == 1 and not (points[0] == "," and re.fullmatch(r"[1-9]\d{0,2},\d{3}", text)):
        point = points[0]
    if point and text.count(point) > 1:
        return None
    whole, _, rest = text.partition(point) if point else (text, "", "")
    groups = re.split(r"\D", whole)
    divided = len(groups) == 1 or (
        len(set(re.findall(r"\D", whole))) == 1
        and re.fullmatch(r"\d{1,3}(\D\d{3})+|\d{1,2}(,\d\d)+,\d{3}", whole) is not None
    )
    if not divided or (rest and not rest.isdecimal()):
        return None
    return Fraction(f"{''.join(groups) or '0'}.{rest or '0'}")


def _is_unit(text: str) -> bool:
    """Whether words after a number leave it as it is."""
    words = re.findall(r"[^\W\d_]+", text)
    return all(
        not NO_UNIT.fullmatch(word.lower())
        and not CHINESE_SCALES.intersection(word)
        and (len(word) > 1 or word in LETTER_UNITS or word > LAST_VARIABLE)
        for word in words
    )


def _plain(text: str) -> str | None:
    """The text in ASCII marks and digits, without LaTeX; None where commands remain."""
    text = re.sub(r"(?<=10)[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+", lambda m: "^" + m[0].translate(POWERS), text)
    text = text.translate(CHARACTERS)
    text = "".join(_character(c) for c in text)
    text = re.sub(r"\\(?:left|right|displaystyle|!)", "", text)
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "\\usd ")
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = re.sub(r"\\(?:times|cdot)\b", "*", text)
    text = re.sub(r"\\(?:[,;: ~]|quad\b)|~", " ", text)
    text = re.sub(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)|\\degree", "\u00b0", text)
    text = re.sub(r"\^ ?\{ ?([+-]?\d+) ?\}", r"^\1", text)
    before = ""
    while before != text:  # one in another: the inner one first
        before = text
        text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed|fbox|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
        text = re.sub(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", _fraction, text)
    text = re.sub(r"^\s*\$([^$]+)\$\s*\.?\s*$", r"\1", text).replace("\\usd", "$")
    if "\\" in text or "{" in text or "}" in text:
        return None
    if re.search(r"[.,]\d+ ?(?:\.\.|\u2026)", text):
        return None  # digits that go on: 0.333... is a third, and no number that is written
    text = re.sub(r"\s+", " ", text).strip().rstrip(" .,;")
    for mark in ("**", "__", "`", '"', "*"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip().rstrip(" .,;")
    return text


def _character(character: str) -> str:
    """Digits of any script as ASCII's; a character that is a fraction as that."""
    if character.isascii():
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    written = unicodedata.normalize("NFKC", character)
    return " " + written.replace("\u2044", "/") if "\u2044" in written else character


def _fraction(found: re.Match[str]) -> str:
    """A LaTeX fraction on one line, its sign in front."""
    top, bottom = (found[1] or found[2] or "").strip(), (found[3] or found[4] or "").strip()
    return f" -{top[1:].strip()}/{bottom}" if top.startswith("-") else f" {top}/{bottom}"


def _braced(text: str, start: int) -> str | None:
    """What the brace at `start` encloses; None where it is not closed, or is none."""
    depth = 0
    for at in range(start, len(text)) if start >= 0 else ():
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return text[start + 1 : at]
    return None


def vote_of(text: str) -> Hashable | None:
    """What a text votes for: its last \\boxed{} or what follows its last '####', else what follows its last colon, else all of
    it; a number by its value, anything else without white space at will. None where nothing is there."""
    final = final_answer(text)
    stated = " ".join((text.rpartition(":")[2] if final is None else final).split())
    value = read_value(stated)
    return (value.number, value.percent) if value is not None else stated or None
