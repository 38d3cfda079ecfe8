"""Parity with datatrove's filters on 5,000 real documents, run by the peers' environment; every disagreement is listed.

Skipped, visibly, where that environment or the documents are absent.
"""

import gzip
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.subprocess_arm import PEERS, ROOT
from tasks.filter.methods import C4, Fineweb, GopherQuality, GopherRepetition
from tests.filter.documents import batch_of

DATA = ROOT.parent / "shared" / "data"
# Longer ones would take minutes, datatrove being what it is; benchmarks/filter.py has them.
DOCUMENTS, MAX_CHARACTERS, DISAGREEING = 5000, 4000, 0.001
RULES = {
    "GopherQualityFilter": GopherQuality(definitions="datatrove"),
    "GopherRepetitionFilter": GopherRepetition(definitions="datatrove"),
    "C4QualityFilter": C4(end_marks=".?!\"'", min_words=3, min_sentences=5),
    "FineWebQualityFilter": Fineweb(),
}
PEER = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline import filters
chosen = [getattr(filters, name)() for name in sys.argv[1:]]
for line in sys.stdin:
    said = []
    for each in chosen:
        document = Document(text=json.loads(line), id="")
        verdict = each.filter(document)
        said.append([verdict if verdict is True else verdict[1], document.text])
    print(json.dumps(said))
"""


def real_documents() -> list[str]:
    """A fixed choice of the prose and instructions there are."""
    found = []
    for path in sorted([*DATA.glob("prose/*.jsonl.gz"), *DATA.glob("instruct/*.jsonl.gz")]):
        with gzip.open(path, "rt") as file:
            for row in map(json.loads, file):
                found.append(
                    row.get("text") or "\n".join(filter(None, map(row.get, ("instruction", "input", "output"))))
                )
    found = [text for text in found if len(text) <= MAX_CHARACTERS]
    return random.Random(0).sample(found, min(DOCUMENTS, len(found)))


@pytest.fixture(scope="module")
def verdicts() -> tuple[list[str], list[list[list]]]:
    """The documents, and for each what every filter of datatrove says: True or the reason, and the text it leaves."""
    texts = real_documents()
    if not texts:
        pytest.skip(f"{DATA}: no documents there")
    if not PEERS.exists() or subprocess.run([PEERS, "-c", "import datatrove, spacy"], capture_output=True).returncode:
        pytest.skip(f"{PEERS}: no datatrove with spaCy there; `make peers` makes that environment")
    parts = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    with ThreadPoolExecutor(2) as pool:
        said = [line for lines in pool.map(of_datatrove, parts) for line in lines]
    return texts, said


def of_datatrove(texts: list[str]) -> list[list[list]]:
    """What every filter says of every text."""
    command = [str(PEERS), "-c", PEER, *RULES]
    asked = "\n".join(map(json.dumps, texts))
    answer = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in answer.splitlines()]


@pytest.mark.parametrize("name", RULES)
def test_decisions_are_those_of_datatrove(name: str, verdicts) -> None:
    texts, said = verdicts
    ours, column = RULES[name].judge(batch_of(texts), Path()), list(RULES).index(name)
    differ = []
    for row, (verdict, left) in enumerate(answers[column] for answers in said):
        if (ours.reasons[row] is None) != (verdict is True):
            differ.append(f"{row}: ours {ours.reasons[row]}, theirs {verdict}: {texts[row]!r:.200}")
        elif verdict is True and ours.texts is not None and ours.texts[row].as_py() != left:
            differ.append(f"{row}: kept by both, with other text: {texts[row]!r:.200}")
    print(f"{name}: {len(differ)} of {len(texts)} differ", *differ, sep="\n", file=sys.stderr)
    assert len(differ) <= DISAGREEING * len(texts), "\n".join(differ)


def test_both_verdicts_are_common(verdicts) -> None:
    texts, said = verdicts
    assert len(said) == len(texts) == DOCUMENTS
    for column in range(len(RULES)):
        kept = sum(answers[column][0] is True for answers in said)
        assert 0.1 < kept / len(texts) < 0.95
