"""The same bytes for any cut into shards, any row groups and any number of workers."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.forks.work import share_among_two
from tests.project import digest
from tests.tokenize import test_stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of one shard encoded by one worker."""
    return digest(test_stage.run_stage(tmp_path_factory.mktemp("whole"))[1])


@pytest.mark.parametrize(
    ("cuts", "workers"), [((1,), 1), ((0, 100, 100), 1), (tuple(range(10, 200, 10)), 1), ((0, 37, 38, 199), 2)]
)
def test_shards_and_workers_change_nothing(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...], workers: int
) -> None:
    if workers == 2:
        share_among_two(monkeypatch)
    assert digest(test_stage.run_stage(tmp_path, cuts=cuts)[1]) == whole


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_row_groups_change_nothing(whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    def in_groups(path: Path, table: object) -> None:
        pq.write_table(table, path, row_group_size=rows)

    monkeypatch.setattr(test_stage, "write_table", in_groups)
    assert digest(test_stage.run_stage(tmp_path)[1]) == whole
