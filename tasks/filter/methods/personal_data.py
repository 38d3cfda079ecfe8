"""Personal data masked: email addresses, public IP addresses, keys; on request telephone and card numbers. Drops nothing.

A mask is a fixed word in brackets, which no pattern takes for data again. FineWeb (Penedo et al. 2024, arXiv:2406.17557) and
datatrove put one of a few plausible addresses in the place of an email or IP, by turns, so that two mentions of one address
may become two and a reader cannot tell what was there. Left as they are: addresses of example domains (RFC 2606), IPs that
are no public address of a machine, four numbers after "version", and the parts of an email before any of !#$&*/=?^`{|}~.

One regular expression of RE2 finds the documents to look at; the patterns below run on those alone. Each of them takes time
linear in the text: what repeats is bounded, or starts at a fixed word and never goes back.
"""

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lm.config import Config
from tasks.filter.rule import Batch, Judgement, Setting

Kind = Literal["key", "email", "ip", "card", "phone"]
Masked = tuple[str, int]

# AWS, GitHub, GitLab, Slack, Google, Hugging Face, Stripe, npm; JSON web tokens; PEM
KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"A(?:KIA|SIA)[A-Z0-9]{16}|gh[opsur]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{34,}|[rs]k_(?:live|test)_[A-Za-z0-9]{24,}"
    r"|npm_[A-Za-z0-9]{36}|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")(?![A-Za-z0-9_-])"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:(?!-----)[\s\S])*-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|(?:\s+[A-Za-z0-9+/=]{40,})*)"
)
# OpenAI, Anthropic: as words of style sheets begin so too, a figure and a capital must be in it
SECRET = re.compile(r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}")
DOMAIN = re.compile(r"[\w-]+(?:\.[\w-]+)*")
EXAMPLE = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test|localhost)$")
IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]{1,34}(?![\w:]|\.\w)")
VERSION = re.compile(r"(?i:\b(?:v|ver|version|release|build|firmware)[.:]? ?)\Z")
CARD = re.compile(r"(?<![\w.,-])[2-6](?:[ -]?[0-9]){12,18}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w.+-])(?:(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
    r"|\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{2,4}\)?){2,4})(?![\w-]|\.\w)"
)


def mask_keys(text: str) -> Masked:
    text, keys = KEY.subn("[key]", text)
    found = [m for m in SECRET.finditer(text) if re.search("[0-9]", m[0]) and re.search("[A-Z]", m[0])]
    return _replaced(text, [m.span() for m in found], "[key]"), keys + len(found)


def mask_emails(text: str) -> Masked:
    """An address is read from its @ to both sides; a domain has two labels, the last of letters. Any script's letters count."""
    spans: list[tuple[int, int]] = []
    at = text.find("@")
    while at >= 0:
        start, least = at, spans[-1][1] if spans else 0
        while start > least and (text[start - 1].isalnum() or text[start - 1] in "._%+-'"):
            start -= 1
        start += len(text[start:at]) - len(text[start:at].lstrip("'.-"))
        domain = DOMAIN.match(text, at + 1)
        name = domain[0].rstrip("-_").lower() if domain else ""
        _, dot, last = name.rpartition(".")
        is_name = dot and len(last) > 1 and (last.isalpha() or last.startswith("xn--"))
        if start < at and is_name and not EXAMPLE.search(name):
            spans.append((start, at + 1 + len(name)))
        at = text.find("@", at + 1)
    return _replaced(text, spans, "[email]"), len(spans)


def mask_ips(text: str) -> Masked:
    spans = [
        m.span()
        for pattern in (IPV4, IPV6)
        for m in pattern.finditer(text)
        if is_public(m[0]) and not VERSION.search(text, max(0, m.start() - 12), m.start())
    ]
    return _replaced(text, sorted(spans), "[ip]"), len(spans)


def is_public(text: str) -> bool:
    """Whether it is the address of one machine on the Internet: not private, local, reserved, of documents, of many."""
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def mask_cards(text: str) -> Masked:
    spans = [m.span() for m in CARD.finditer(text) if passes_luhn(m[0])]
    return _replaced(text, spans, "[card]"), len(spans)


def passes_luhn(text: str) -> bool:
    """The check digit of ISO/IEC 7812-1, white space and hyphens aside."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    return sum(digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits)) % 10 == 0


def mask_phones(text: str) -> Masked:
    """North American numbers with their separators, and others that begin with + and have 8 to 15 figures (E.164)."""
    spans = [m.span() for m in PHONE.finditer(text) if m[0][0] != "+" or 8 <= sum(c.isdigit() for c in m[0]) <= 15]
    return _replaced(text, spans, "[phone]"), len(spans)


def _replaced(text: str, spans: list[tuple[int, int]], mask: str) -> str:
    ends = [0, *(end for _, end in spans)]
    return "".join(text[end:start] + mask for end, (start, _) in zip(ends, spans, strict=False)) + text[ends[-1] :]


# in this order: what every text with such data matches, as RE2 has it, and how it is masked
KINDS: dict[Kind, tuple[str, Callable[[str], Masked]]] = {
    "key": (
        "AKIA|ASIA|gh[opsur]_|github_pat_|glpat-|xox[abeprs]-|AIza|hf_|[rs]k_live_|[rs]k_test_|npm_|eyJ|sk-|PRIVATE KEY",
        mask_keys,
    ),
    "email": (r"[\pL\pN._%+'-]@[\pL\pN_-]", mask_emails),
    "ip": (r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{0,3}:[0-9A-Fa-f]{0,4}:", mask_ips),
    "card": (r"[2-6](?:[ -]?[0-9]){12}", mask_cards),
    "phone": (r"[2-9][0-9]{2}[ .-][0-9]{4}|\+[1-9][0-9]", mask_phones),
}


def masked(text: str, kinds: list[Kind]) -> tuple[str, dict[str, int]]:
    """The text with nothing left to mask, and how many of each kind were masked: again until nothing is found, since a mask
    may uncover what stood too close to something else."""
    counts = dict.fromkeys(kinds, 0)
    while True:
        before = text
        for kind, (_, mask) in KINDS.items():
            if kind in kinds:
                text, count = mask(text)
                counts[kind] += count
        if text == before:
            return text, {kind: count for kind, count in counts.items() if count}


class PersonalData(Config):
    name: Literal["personal_data"] = "personal_data"
    sources: list[str] | None = Field(None, description="mask in the documents of these sources; in all when absent")
    kinds: list[Kind] = Field(
        ["key", "email", "ip"], min_length=1, description="cards are 13 to 19 figures that pass Luhn"
    )

    def prepare(self, setting: Setting) -> None:
        """Do nothing: a document says all there is to know."""

    def judge(self, batch: Batch, folder: Path) -> Judgement:
        """No reasons; new texts where something was masked, and how many of each kind."""
        suspects = pc.match_substring_regex(batch.texts, "|".join(KINDS[kind][0] for kind in sorted(self.kinds)))
        rows, texts = np.flatnonzero(suspects.to_numpy(zero_copy_only=False)), list[str]()
        counts = {f"masked_{kind}": np.zeros(len(batch.texts), np.int64) for kind in self.kinds}
        changed = np.zeros(len(batch.texts), bool)
        for row in rows:
            text, found = masked(batch.texts[row].as_py(), self.kinds)
            if found:
                changed[row] = True
                texts.append(text)
                for kind, count in found.items():
                    counts[f"masked_{kind}"][row] = count
        reasons = np.full(len(batch.texts), None, dtype=object)
        if not texts:
            return Judgement(reasons, counts=counts)
        new = pc.replace_with_mask(batch.texts, pa.array(changed), pa.array(texts, pa.large_string()))
        return Judgement(reasons, new, counts=counts)
