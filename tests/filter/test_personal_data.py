"""Personal data: what is masked, what only looks like it, and that a masked text has nothing left to mask."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.filter.methods import PersonalData
from tasks.filter.methods.personal_data import KINDS, masked, passes_luhn
from tasks.filter.rule import Judgement
from tests.filter.documents import batch_of
from tests.real_text import REAL_TEXT, on_real_text

ALL = list(KINDS)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{'MIIEow' * 10}\n{'x' * 9}=\n-----END RSA PRIVATE KEY-----"


def counted(judged: Judgement) -> dict[str, int]:
    return {name: int(count.sum()) for name, count in judged.counts.items() if count.any()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+news@mail.co.uk.", "write to [email]."),
        ("<j\N{LATIN SMALL LETTER O WITH DIAERESIS}rg@m\N{LATIN SMALL LETTER U WITH DIAERESIS}ller.de>", "<[email]>"),
        ("'o'neil@x.org', a@b.io;c@d.io", "'[email]', [email];[email]"),
        ("mailto:me@xn--bcher-kva.xn--p1ai?email=you@there.net", "mailto:[email]?email=[email]"),
        ("_me@there.net_", "[email]_"),
        ("ping 8.8.8.8, then 1.1.1.1:53 (2606:4700::1111)", "ping [ip], then [ip]:53 ([ip])"),
        ("http://93.184.216.34/x and 2a00:1450:4001:81b:0:0:0:200e.", "http://[ip]/x and [ip]."),
        ("key=AKIAIOSFODNN7EXAMPLE;", "key=[key];"),
        (f"token ghp_{'a1B2' * 9} and sk-proj-{'aB3' * 8}", "token [key] and [key]"),
        (f"Bearer {JWT}\n{PEM}\nend", "Bearer [key]\n[key]\nend"),
        (
            f"cut: -----BEGIN PRIVATE KEY-----\n{'Ab1+' * 16}\n\nAnd so on - we said.",
            "cut: [key]\n\nAnd so on - we said.",
        ),
        ("pay with 4111 1111 1111 1111 or 5500-0000-0000-0004", "pay with [card] or [card]"),
        ("call (415) 555-2671, +1 415.555.2671 or +44 20 7946 0958!", "call [phone], [phone] or [phone]!"),
    ],
)
def test_what_is_masked(text: str, expected: str) -> None:
    assert masked(text, ALL)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "@decorator\ndef f(x): return x @ y.T",
        "@app.route('/') and foo@bar and a@b.c and @ and me@ home.com",
        "someone@example.com, x@y.test, root@localhost",
        "1.2.3.4.5 and v1.2.3.4 and version 8.8.8.8 and 8.8.8.8.x and 1.2.3 and 999.1.1.1 and 01.02.03.04",
        "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.1.1 224.0.0.1 0.0.0.0 255.255.255.255 203.0.113.9 ::1 fe80::1",
        "at 23:59:59 std::vector 2001:db8::1 20:30:40:50 dead::beef",
        "task-aaaaaaaaaaaaaaaaaaaaaaaaa sk-fading-circle-of-many-dots AKIA1234 -----BEGIN PUBLIC KEY-----",
        "4111 1111 1111 1112 and 1234567890123456 and 415-555-26711 and +12 and 2026-11-21",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(text, ALL) == (text, {})


def test_luhn_by_hand() -> None:
    assert passes_luhn("79927398713") and not any(passes_luhn(f"7992739871{digit}") for digit in "012456789")


def test_counts_and_what_is_on_request() -> None:
    texts = ["a@b.io c@d.io 8.8.8.8", "nothing", "4111111111111111", "x@y.io"]
    judged = PersonalData().judge(batch_of(texts), Path())
    assert judged.texts.to_pylist() == ["[email] [email] [ip]", "nothing", "4111111111111111", "[email]"]
    assert counted(judged) == {"masked_email": 3, "masked_ip": 1}
    assert list(judged.counts["masked_email"]) == [2, 0, 0, 1]
    assert counted(PersonalData(kinds=["card"]).judge(batch_of(texts), Path())) == {"masked_card": 1}
    assert PersonalData().judge(batch_of(texts[1:3]), Path()).texts is None


PIECES = st.sampled_from(
    [
        *(
            "a@b.com",
            "@",
            "x.y",
            "1.2.3.4",
            ".5",
            "8.8.8.8",
            "2606:4700::1111",
            "::",
            ":",
            "AKIAIOSFODNN7EXAMPLE",
            JWT,
            PEM,
        ),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "4111111111111111",
            " ",
            "-",
            "_",
            ".",
            "'",
            "415-555-2671",
            "+44 20 7946 0958",
            "v",
        ),
        *("sk-aB3aB3aB3aB3aB3aB3aB3aB3", "[email]", "[ip]", "\n", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
    ]
)
TEXTS = st.lists(st.one_of(st.lists(PIECES, max_size=9).map("".join), st.text(max_size=60)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(TEXTS, st.integers(0, 5))
def test_masking_is_idempotent_drops_nothing_and_looks_at_one_document(texts: list[str], cut: int) -> None:
    rule = PersonalData(kinds=ALL)
    judged = rule.judge(batch_of(texts), Path())
    assert judged.reasons.shape == (len(texts),) and not any(judged.reasons)
    new = texts if judged.texts is None else judged.texts.to_pylist()
    assert new == [masked(text, ALL)[0] for text in texts]  # what the fast search passes over has nothing to mask
    if judged.texts is not None:
        judged.texts.validate(full=True)
    again = rule.judge(batch_of(new), Path())
    assert again.texts is None and counted(again) == {}
    parts = [rule.judge(batch_of(part), Path()).texts or part for part in (texts[:cut], texts[cut:]) if part]
    assert [str(text) for part in parts for text in part] == new


@pytest.mark.parametrize(
    "unit", ["a", "a@", "1.", "1.2.3.", "2a:", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----", "4 ", "+1 2", "a.b@c."]
)
def test_a_text_made_to_be_slow_is_done(unit: str) -> None:
    """A third of a million characters: a pattern that takes quadratic time would be at it for hours."""
    text = unit * (320_000 // len(unit))
    assert masked(f"{text} a@b.io", ALL)[0].endswith(" [email]")


@on_real_text
def test_real_prose_is_left_alone() -> None:
    """The texts hold no address or number of a person: one four-part version of a program is all that is taken for one."""
    texts = []
    for path in sorted((REAL_TEXT / "prose").glob("*.gz")):
        with gzip.open(path, "rt") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    judged = PersonalData(kinds=ALL).judge(batch_of(texts), Path())
    assert counted(judged) == {"masked_ip": 1}


def test_a_batch_of_nothing() -> None:
    judged = PersonalData().judge(batch_of([]), Path())
    assert len(judged.reasons) == 0 and all(
        len(each) == 0 for each in [*judged.scores.values(), *judged.counts.values()]
    )
