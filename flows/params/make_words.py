"""The words of `make TARGET WORD=value`: one that no target of it takes is refused before anything begins.

What a target takes is what its recipe in the Makefile reads, so there is no list beside it. Run by the Makefile itself, by path
and before there is an environment, so it imports nothing of ours: `words.py MAKEFILE "GOAL ..." WORD ...` prints the refusal.
"""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

RULE = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
READ = re.compile(r"\$\((?:call arg,)?([A-Z][A-Z_]*)\b")
# The Makefile's own, which no recipe asks a user for, and settings of the environment: make hands them on to what it starts.
ANYWHERE = {"PYTHON", "VENV", "SHELL"}
SETTINGS = re.compile(r"(TOKENMILL|PREFECT|MLFLOW|DVC|CUDA|OMP|GOMP|AWS|PIP|HF)_[A-Z_]+|[a-z]+_proxy")


def recipes(makefile: str) -> dict[str, str]:
    """The lines of each target, what it is made of among them."""
    starts = list(RULE.finditer(makefile))
    ends = [found.start() for found in starts[1:]] + [len(makefile)]
    return {found[1]: makefile[found.end() : end] for found, end in zip(starts, ends, strict=True)}


def words_read(recipe: str) -> list[str]:
    """The words that a recipe reads, in its order."""
    own = ANYWHERE | {"BIN", "CURDIR", "MAKEFILE_LIST", "READY"}
    return [word for word in dict.fromkeys(READ.findall(recipe)) if word not in own]


def refusal(makefile: str, goals: list[str], words: list[str]) -> str:
    """Why this command line is refused, in a line; "" when it is not."""
    found = recipes(makefile)
    allowed = list(dict.fromkeys(word for goal in goals for word in words_read(found.get(goal, ""))))
    for goal in goals:
        if goal not in found and not goal.startswith("."):
            known = [other for other in goals if other in found]
            if known and "TARGETS" in allowed:
                return f'make {" ".join(goals)}: no command {goal!r}; stages go into TARGETS: make {known[0]} TARGETS="{goal}"'
            return f"make {goal}: no such command{nearest(goal, found)} (`make help` lists them)"
    command = " ".join(["make", *goals])
    for word in words:
        if word not in allowed and word not in ANYWHERE and not SETTINGS.fullmatch(word):
            near = nearest(word, allowed)
            what = f"no word {word!r}{near}"
            if "SET" in allowed and not near:
                what += f'; parameters go into SET: {command} SET="{word if "." in word else "section.key"}=..."'
            return f"{command}: {what} (it takes: {', '.join(allowed) or 'no words'})"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The question whether another was meant, where one is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


if __name__ == "__main__":
    print(refusal(Path(sys.argv[1]).read_text(), sys.argv[2].split(), sys.argv[3:]))
