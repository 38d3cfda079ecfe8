"""The steps of the demonstrations, each as a problem of its own: supervision of easy subtasks, to stand beside that of the hard
task (He et al. 2024, "Guiding Through Complexity", arXiv:2410.20533, who find both together better than either)."""

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lm.config import Config
from lm.conversations.encode import Learned
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import make_conversation
from tasks.sft.sources.base import SourceData

# What GSM8K writes of each computation, and a sum or a product as anybody writes it
ANNOTATED = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
WRITTEN = re.compile(r"(?<![\w.])(\d[\d.]*(?:\s*[-+*/]\s*\d[\d.]*)+)\s*=\s*(-?\d+(?:\.\d+)?)")


def steps_of(demonstration: str) -> list[tuple[str, str]]:
    """(what is computed, what it gives) of each computation in a text, in its order; those that it annotates as GSM8K does,
    where there are any."""
    found = ANNOTATED.findall(demonstration) or WRITTEN.findall(demonstration)
    return [(left.strip(), right.strip()) for left, right in found]


class Subtasks(Config):
    """Each computation once, asked for as `7+8=`. One that is itself a problem of the splits rl or test is left out.

    Differs from the paper: subtasks are the computations of a demonstration, and come from a program; those of the paper are
    questions in words; how wrong the supervision of hard tasks is, which it varies, is what the other sources hold.
    """

    name: Literal["subtasks"] = "subtasks"
    weight: float = Field(1.0, gt=0, description="of the conversations in a step, beside the other sources' weights")

    def __call__(
        self, tokenizer: Tokenizer, problems: Any, folder: Path, learned: Learned, model: Decoder | None, seed: int
    ) -> SourceData:
        found = [make_conversation(tokenizer, prompt, answer) for prompt, answer in self.pairs(problems)]
        return SourceData(found, [math.nan] * len(found))

    def pairs(self, problems: Any) -> list[tuple[str, str]]:
        """(prompt, answer) of each subtask, in the order in which they are first met."""
        held_out = {"".join(e.prompt.split()) for split in ("rl", "test") for e in problems.examples(split)}
        found: dict[str, str] = {}
        for example in problems.examples("sft"):
            for left, answer in steps_of(example.demonstration):
                found.setdefault("".join(left.split()) + "=", answer)
        return [(prompt, answer) for prompt, answer in found.items() if prompt not in held_out]
