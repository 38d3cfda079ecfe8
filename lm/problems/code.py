"""Programming problems with unit tests: JSON lines of `question`, `solution` and `tests`, with an `id` and a `level` where they
have them. MBPP's (arXiv:2108.07732) `text`, `code` and `test_list` are read as these."""

import ast
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lm.config import ConfigError
from lm.problems import canonical as canonical_file
from lm.problems.canonical import canonical
from lm.problems.example import Example, Score
from lm.problems.folder import Folder, id_of, level_of, text_of

MBPP = {"text": "question", "code": "solution", "test_list": "tests"}
FENCE = re.compile(r"^```[a-z]*[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
# What a test expects is never in the sandbox: what the calls return comes out as text and is compared here. A program that ends
# the process or writes to the channel by itself tells less or something else, and nothing that would be right.
HARNESS = """
import os, sys
channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
{canonical}
def returned(call, names):
    try:
        return canonical(eval(call, names)).encode("unicode_escape").decode()
    except BaseException as error:
        return "raised"
def main():
    calls, program = {calls!r}, {program!r}
    names = {{"__name__": "__main__"}}
    write, flush, text = channel.write, channel.flush, returned
    try:
        exec(compile(program, "answer.py", "exec"), names)
    except BaseException:
        os._exit(3)
    for call in calls:
        write(text(call, names) + "\\n")
        flush()
    os._exit(0)
main()
"""


class Code(Folder):
    """A test is `assert CALL == VALUE`: VALUE is written out (a literal), CALL is any expression of what the program defines.
    An answer is right when every call returns its value; the program is what stands in the last fence of Markdown, else all of
    the text."""

    name: Literal["code"] = "code"
    needs: ClassVar[str] = (
        "a JSON object with strings `question` and `solution` and a list `tests` of `assert CALL == VALUE`"
    )
    cpu_seconds: int = Field(2, gt=0, description="of a processor that a program may take for all tests")
    memory_mib: int = Field(512, ge=64, description="MiB of address space")

    def example(self, where: str, row: dict[str, Any]) -> Example:
        row = {MBPP.get(name, name): value for name, value in row.items()} if MBPP.keys() <= row.keys() else row
        question, solution = (text_of(row, name, where, self.needs) for name in ("question", "solution"))
        tests = row.get("tests")
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise ConfigError(f"{where}: needs {self.needs}: `tests` is {tests!r}")
        pairs = [read_test(test, where) for test in tests]
        answer = json.dumps({"calls": [call for call, _ in pairs], "returns": [value for _, value in pairs]})
        return Example(id_of(row, where), question, answer, solution, level_of(row, where))

    def score(self, example: Example, text: str) -> Score:
        """1 when all tests pass, else 0. Invalid where the sandbox ended the program: it took too long, or wrote too much.
        Raises ConfigError where this machine can make no sandbox."""
        # here, since whoever imports the room, as ingest does, would else read the sandbox too, and be made anew by its changes
        from lm.sandbox.run import Limits, run_program

        tests = json.loads(example.answer)
        outcome = run_program(
            harness(program_of(text), tests["calls"]),
            Limits(cpu_seconds=self.cpu_seconds, seconds=10.0 + 5 * self.cpu_seconds, memory=self.memory_mib << 20),
        )
        if outcome.reason is not None:
            return Score(0.0, valid=False)
        told = outcome.out.split("\n")
        expected = [value.encode("unicode_escape").decode() for value in tests["returns"]]
        return Score(float(told == [*expected, ""]))


def read_test(test: str, where: str) -> tuple[str, str]:
    """(call, canonical text of its value) of a test. Raises ConfigError naming file, line and test for one that is none."""
    wrong = f"{where}: the test {test!r} is not `assert CALL == VALUE` with a value that is written out"
    try:
        match ast.parse(test.strip()).body:
            case [ast.Assert(test=ast.Compare(left=call, ops=[ast.Eq()], comparators=[value]))]:
                return ast.unparse(call), canonical(ast.literal_eval(value))
    except (SyntaxError, ValueError, RecursionError, TypeError):
        pass
    raise ConfigError(wrong)


def program_of(text: str) -> str:
    """What stands in the last fence of Markdown; the whole text where there is none."""
    fenced = FENCE.findall(text)
    return fenced[-1] if fenced else text


def harness(program: str, calls: list[str]) -> str:
    """A program that runs another one, and then writes what each call returns, a line each."""
    source = Path(canonical_file.__file__).read_text(encoding="utf-8")
    return HARNESS.format(canonical=source, calls=calls, program=program)
