"""An interpreter of Python: what a program between two marks writes to stdout is its result."""

from typing import Literal

from pydantic import Field

from lm.sandbox.run import Limits, Outcome, run_programs
from tasks.rl.environments.calls import MARK, Calls


class Python(Calls):
    """ReTool's tool, with its marks. Each call is a program of its own in a sandbox: nothing is kept from one call to the next,
    in an answer either. A program that depends on the time, on chance or on how fast the machine is may give another result
    when a rollout that was killed is made again."""

    name: Literal["python"] = "python"
    begin: str = Field("<code>", pattern=MARK, description="what begins a call")
    end: str = Field("</code>", pattern=MARK, description="what ends it")
    result_begin: str = Field("<interpreter>", pattern=MARK, description="what the environment begins a result with")
    result_end: str = Field("</interpreter>", pattern=MARK, description="what it ends it with")
    result_tokens: int = Field(
        128, gt=0, description="tokens of a result with its marks, at most; what is longer is cut"
    )
    cpu_seconds: int = Field(2, gt=0, description="of a processor that a program may take")
    memory_mib: int = Field(512, ge=64, description="MiB of address space of each of its processes")

    def results(self, calls: list[str]) -> list[str]:
        """Raises ConfigError where this machine can make no sandbox."""
        limits = Limits(cpu_seconds=self.cpu_seconds, seconds=10.0 + 5 * self.cpu_seconds, memory=self.memory_mib << 20)
        return [result_of(outcome) for outcome in run_programs([unfenced(call) for call in calls], limits)]


def unfenced(call: str) -> str:
    """A program without the fence of Markdown that may be around it."""
    lines = call.strip("\n").split("\n")
    if lines[0].strip() in ("```python", "```py", "```") and lines[-1].strip() == "```" and len(lines) > 1:
        lines = lines[1:-1]
    return "\n".join(lines)


def result_of(outcome: Outcome) -> str:
    """What a program wrote, and behind it the last line of its error, where it ended with one, or why the sandbox ended it."""
    said = [outcome.out.strip()]
    if outcome.reason is not None:
        said.append(f"error: {outcome.reason}")
    elif outcome.code:
        said.append(outcome.err.strip().rpartition("\n")[2] or f"error: exit status {outcome.code}")
    return "\n".join(part for part in said if part)
