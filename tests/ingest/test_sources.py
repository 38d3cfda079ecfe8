"""The sources that need no file: the standard library and the worksheets; and what holds for all of them."""

import json
import platform
from itertools import islice
from pathlib import Path

import pytest

from tasks.core.config import ConfigError
from tasks.core.held_out import GROUP, HELD_OUT
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.ingest.sources import Stdlib, Worksheets
from tasks.ingest.sources.stdlib import group, module_pieces
from tasks.ingest.stage import IngestConfig, run
from tests.project import digest


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingest(tmp_path_factory.mktemp("ingest"))


def ingest(folder: Path, seed: int = 0) -> Path:
    (folder / "data" / "ingest").mkdir(parents=True)
    sources = [Stdlib(weight=0.8), Worksheets(weight=0.2)]
    run(IngestConfig(folder=str(folder), max_bytes=1_500_000, sources=sources, seed=seed), folder / "data", Log())
    return folder / "data" / "ingest"


def test_the_same_bytes_twice(default: Path, tmp_path: Path) -> None:
    assert digest(ingest(tmp_path)) == digest(default)


def test_ids_are_unique_and_documents_are_what_they_claim(default: Path) -> None:
    rows = read_table(default / "documents").to_pylist()
    assert len({r["id"] for r in rows}) == len(rows)
    stdlib = [r for r in rows if r["source"] == "stdlib"]
    assert {json.loads(r["meta"])["python"] for r in stdlib} == {platform.python_version()}
    kinds = [sum(r["id"].startswith(f"stdlib:{kind}/") for r in stdlib) for kind in ("doc", "topics", "encodings")]
    assert all(count > 50 for count in kinds) and not any("/test" in r["id"] for r in stdlib)


def test_pieces_of_a_module_are_the_module() -> None:
    source = Path(json.__file__).with_name("decoder.py").read_text()
    pieces = module_pieces(source, 1500)
    assert "".join(pieces) == source and len(pieces) > 3
    assert module_pieces("x = 1\n", 1500) == ["x = 1\n"]
    assert all(len(text) <= 1500 for text in group(source.splitlines(keepends=True), 1500))


def test_decorators_stay_with_their_function() -> None:
    source = "import a\n" * 20 + "@a.b\n@a.c\ndef f():\n    pass\n" + "x = 1\n" * 20
    pieces = module_pieces(source, 190)
    assert "".join(pieces) == source and any("@a.b\n@a.c\ndef f" in piece for piece in pieces)


def test_worksheets_are_endless_and_follow_the_seed() -> None:
    one, again, other = (
        [r.text for r in islice(Worksheets(lines_per_document=3).rows(seed), 50)] for seed in (0, 0, 1)
    )
    assert one == again != other and all(text.count("\n") == 3 for text in one)


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.5])
def test_sheets_to_be_held_out_share_no_line_with_others(digits: int, fraction: float) -> None:
    sheets = list(islice(Worksheets(digits=digits, held_out_fraction=fraction).rows(0), 400))
    sums: dict[bool, set[str]] = {True: set(), False: set()}
    for sheet in sheets:
        sums[json.loads(sheet.meta)[HELD_OUT]].update(line.partition("=")[0] for line in sheet.text.splitlines())
    assert not sums[True] & sums[False] and bool(sums[True]) == (fraction > 0)
    assert sum(json.loads(sheet.meta)[HELD_OUT] for sheet in sheets) == 400 * fraction


def test_pieces_of_a_module_are_one_group() -> None:
    for record in islice(Stdlib(max_document_bytes=1500).rows(), 2000):
        assert json.loads(record.meta)[GROUP] == record.id.removeprefix("stdlib:").rpartition(":")[0]


def test_another_python_is_refused(tmp_path: Path) -> None:
    config = IngestConfig(folder=".", max_bytes=10**6, sources=[Stdlib()], python="3.10.0", seed=0)
    with pytest.raises(ConfigError, match="ingest.python: 3.10.0, but this is Python"):
        run(config, tmp_path, Log())
