"""The process in which a user's reward function runs: a request as JSON on stdin, a line of JSON for each problem on stdout.

    python -P worker.py FILE FUNCTION SECONDS < '{"problems": [{"prompts": [...], "completions": [...], ...}, ...]}'

Each line is a list of [reward, null] or [null, why] for the answers to a problem. What the function prints goes to stderr. It
imports nothing of ours, so that what it takes to start is what the function's own imports take.
"""

import importlib.util
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 3  # problems in a row that took too long, after which no other is tried


class TooLong(BaseException):
    """The function took longer than it may. No Exception, so that `except Exception` in it lets it through."""


def load(path: Path, name: str) -> Callable[..., Any]:
    """The function of that name in the file, which finds what lies beside it. Raises ValueError where there is none."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"there is no function {name}")
    return function


def call_reward(function: Callable[..., Any], columns: dict[str, list[Any]], seconds: float) -> list[float]:
    """The rewards of some answers; None counts for 0, as in TRL a function that has nothing to say of an answer returns it.
    Raises whatever the function does, TooLong, and ValueError for what is no list of as many finite numbers."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = function(**columns)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    answers = len(columns["completions"])
    try:
        values = [0.0 if value is None else float(value) for value in found]
    except TypeError:
        raise ValueError(f"returned {found!r:.60}, and not a list of numbers") from None
    if len(values) != answers:
        raise ValueError(f"returned {len(values)} rewards for {answers} answers")
    if not all(map(math.isfinite, values)):
        raise ValueError("returned a reward that is not finite")
    return values


def verdicts(function: Callable[..., Any], columns: dict[str, list[Any]], seconds: float) -> list[tuple[Any, Any]]:
    """(reward, None) or (None, why) of each answer to a problem: those on which the function fails are found by asking for each
    answer alone."""
    try:
        return [(value, None) for value in call_reward(function, columns, seconds)]
    except (Exception, TooLong) as error:
        answers = len(columns["completions"])
        if answers == 1 or isinstance(error, TooLong):
            return [(None, why(error))] * answers
    alone = [{name: values[i : i + 1] for name, values in columns.items()} for i in range(answers)]
    return [each for columns in alone for each in verdicts(function, columns, seconds)]


def why(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def main() -> None:
    file, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def too_long(*_: Any) -> None:
        raise TooLong(f"took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, too_long)
    problems, waited = json.load(sys.stdin)["problems"], 0
    try:
        function, trouble = load(file, name), "was not asked: others before it took too long"
    except (Exception, SystemExit) as error:
        function, trouble = None, why(error)
    for columns in problems:
        found = [(None, trouble)] * len(columns["completions"])
        if function and waited < PATIENCE:
            found = verdicts(function, columns, seconds)
            late = any(reason and reason.startswith(TooLong.__name__) for _, reason in found)
            waited = waited + 1 if late else 0
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
