"""What every problem set is made of: an example with a demonstration, a score, and the split an example belongs to."""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

# Problems that are learned from: those with demonstrations to show, and those whose answers a verifier is to judge
Split = Literal["sft", "rl"]
JUDGED: Split = "rl"


@dataclass(frozen=True)
class Example:
    """One problem. `demonstration` is what a model is shown in SFT; `answer` is what the verifier looks for; `level` is what
    its problem set tells hard from easy by, or one source from another, where it does."""

    id: str
    prompt: str
    answer: str
    demonstration: str
    level: str | None = None


@dataclass(frozen=True)
class Score:
    """What the verifier found: value in [0, 1]. `valid` is false when the verifier itself failed: never a zero reward."""

    value: float
    valid: bool = True


def behind_working(text: str, form: str) -> str | None:
    """What of a text matches the form, a regular expression in ASCII: all of it, or all behind its only colon, before which the
    working is; None where it is something else. White space around it does not count."""
    found = re.fullmatch(rf"(?:[^:]*:)?\s*({form})\s*", text, flags=re.ASCII)
    return found[1] if found else None


def unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on the key alone: the same on every machine, in every run."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def split_of(key: str, shares: dict[str, float]) -> str:
    """The split a key falls into; each split gets its share of the keys. A key is in exactly one split."""
    point, upper = unit_hash(f"split:{key}") * sum(shares.values()), 0.0
    for name, share in shares.items():
        upper += share
        if point < upper:
            return name
    return name
