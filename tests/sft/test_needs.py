"""What the stage says it will need before it runs: lengths of what every source gives, in every format."""

import json
from pathlib import Path
from typing import Any

import pytest

from lm.config import Config
from lm.problems import Arithmetic
from tasks.about.sections import Sections
from tasks.sft.contracts import contracts
from tasks.sft.formats import Flipped, Markers, Rationales, Retrieved
from tasks.sft.needs import lengths_of, needs
from tasks.sft.sources import Attempts, Files, OwnAnswers, Problems, Subtasks
from tests.lm.models import toy_tokenizer
from tests.project import TINY

TOKENIZER = toy_tokenizer()
PROBLEMS = Arithmetic(digits=1, worked_fraction=0.5)
FORMS = [Markers(), Flipped(), Rationales(), Retrieved(shots=1)]
SOURCES: list[Any] = [
    Problems(), Subtasks(), Files(), *(kind(format=form) for form in FORMS for kind in (Problems, Files)),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("conversations")
    rows = [{"prompt": f"question {n}", "completion": "x" * n + "y", "rationale": "why"} for n in range(9)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s.name}-{getattr(s, 'format', s).name}")
def test_lengths_are_those_of_the_conversations(source: Config, folder: Path) -> None:
    """With a vocabulary of bytes, where every token is known: at most one more for each turn."""
    foreseen = lengths_of(source, PROBLEMS, folder, 261)
    found = source(TOKENIZER, PROBLEMS, folder, "all", None, 0).conversations
    assert len(foreseen) == len(found) > 0
    for (before, said), c in zip(foreseen, found, strict=True):
        turns = TOKENIZER.spell(c.prompt).count("<|assistant|>")
        assert len(c) <= before + said <= len(c) + turns and said - len(c.completion) in (0, 1)


@pytest.mark.parametrize("source", [*SOURCES, OwnAnswers(), Attempts()], ids=lambda s: s.name)
def test_every_source_is_foreseen(source: Config, folder: Path) -> None:
    params = {**TINY, "conversations": {"folder": str(folder)}}
    params["pretrain"] = {**TINY["pretrain"], "model": {**TINY["pretrain"]["model"], "context": 256}}
    params["sft"] = {**TINY["sft"], "sources": [source.model_dump()]}
    sections = Sections(params)
    assert needs(sections).work.tokens > 0 and list(contracts(sections)) == []
