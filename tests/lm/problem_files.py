"""Files of problems for each set that reads such."""

import json
from pathlib import Path
from typing import Any

from lm.config import Config

ROWS: dict[str, Any] = {
    "Gsm8k": lambda i: {"question": f"Ann has {i} apples and eats one?", "answer": f"One less.\n#### {i - 1:,}"},
    "MultipleChoice": lambda i: {
        "question": f"Which is {i} and one?",
        "choices": [str(i + n) for n in ((0, 1, 2), (2, 0, 1), (1, 2, 0))[i % 3]],
        "answer": (1, 2, 0)[i % 3],
        **({"explanation": "One more."} if i % 2 else {}),
    },
    "Segments": lambda i: {
        "text": f'There were {i} hens in the yard. Each of the {i} had a name of its own! "Nobody knows them," said Ann.'
    },
    "Code": lambda i: {
        "question": f"Write add{i}(a), which adds {i}.",
        "solution": f"def add{i}(a):\n    b = a + {i}\n    return b",
        "tests": [f"assert add{i}(1) == {i + 1}", f"assert add{i}(-{i}) == 0"],
    },
}


def filled(method: type[Config], folder: Path, count: int = 60) -> Path:
    """The folder, with a file of problems where the set reads such."""
    if row := ROWS.get(method.__name__):
        lines = [json.dumps(row(i)) + "\n" for i in range(1, count)]
        (folder / "problems.jsonl").write_text("".join(lines))
    return folder
