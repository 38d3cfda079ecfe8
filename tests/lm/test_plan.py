"""Reading a plan with prefixes and padding: what the batch holds, where documents begin, and which predictions count."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.training.data.plan import Plan
from tasks.pretrain.objectives import NextToken
from tests.lm.models import toy_model

COLUMNS = ("step", "sequence", "document", "offset", "length")
# sequences of 6 tokens: a prefix and its document; a document, a prefix cut from its document by the end; then that
# document, and padding
ROWS = [
    (0, 0, -2, 0, 2), (0, 0, 1, 2, 4), (0, 1, 2, 0, 5), (0, 1, -3, 2, 1), (0, 2, 3, 0, 4), (0, 2, -1, 5, 2),
    (1, 0, 4, 4, 6),
]  # fmt: skip


def plan_of(folder: Path, rows: list[tuple[int, ...]], prefixes: bool = True) -> Plan:
    """A plan over the tokens 0 to 99, which are ten documents, with prefixes 200 201, 202 203 204, and padding of 255."""
    np.save(folder / "tokens.npy", np.arange(100, dtype=np.uint16))
    pq.write_table(pa.table({"start": range(0, 100, 10), "length": [10] * 10}), folder / "documents.parquet")
    if prefixes:
        np.save(folder / "prefixes.npy", np.array([200, 201, 202, 203, 204, 255, 255], dtype=np.uint32))
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "plan.parquet")
    return Plan(folder, folder)


def test_ranges_of_prefixes_and_padding_are_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ROWS)
    assert plan.batch(0).tolist() == [
        [200, 201, 12, 13, 14, 15],
        [20, 21, 22, 23, 24, 202],
        [30, 31, 32, 33, 255, 255],
    ]
    assert plan.batch(1).tolist() == [[44, 45, 46, 47, 48, 49]] and plan.longest == 6
    assert plan.shapes == 2  # 3 x 6 and 1 x 6


def test_their_tokens_are_not_predicted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ROWS)
    counted = plan.loss_mask(0)
    assert counted is not None and counted.dtype == torch.bool
    # a document's first token is predicted from its prefix
    assert counted.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert plan.loss_mask(1) is None  # all


def test_a_prefix_and_its_document_are_one_for_attention(tmp_path: Path) -> None:
    # inputs are 5 a sequence; the second sequence's prefix is a target alone, and padding is apart
    assert plan_of(tmp_path, ROWS).bounds(0).tolist() == [0, 5, 10, 14, 15]
    rows = [(0, 0, 7, 0, 2), (0, 0, -2, 0, 2), (0, 0, 8, 5, 2), (0, 1, 9, 0, 6)]
    assert plan_of(tmp_path, rows).bounds(0).tolist() == [0, 2, 5, 10]


def test_a_plan_without_them_reads_no_file_of_them_and_one_with_them_needs_it(tmp_path: Path) -> None:
    assert plan_of(tmp_path, ROWS[-1:] and [(0, *ROWS[-1][1:])], prefixes=False).loss_mask(0) is None
    with pytest.raises(
        ConfigError, match=r"row 0 asks for tokens 0 to 2 of .*prefixes.npy, which has 0; make both anew"
    ):
        plan_of(tmp_path, ROWS, prefixes=False)
    with pytest.raises(ConfigError, match=r"row 0 asks for tokens 6 to 8 of .*prefixes.npy, which has 7"):
        plan_of(tmp_path, [(0, 0, -1, 6, 2)])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((0, 0, 3, 8, 3), r"row 0 asks for tokens 8 to 11 of document 3 of .*documents.parquet, which has 10; make"),
        ((0, 0, 3, -1, 3), r"row 0 asks for tokens -1 to 2 of document 3 of "),
        ((0, 0, 10, 0, 3), r"row 0 is of document 10 of .*documents.parquet, which has 10; make"),
    ],
)
def test_a_range_outside_its_document_is_refused(row: tuple[int, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of(tmp_path, [row])


def test_documents_of_other_tokens_are_refused(tmp_path: Path) -> None:
    plan_of(tmp_path, ROWS)
    np.save(tmp_path / "tokens.npy", np.arange(99, dtype=np.uint16))
    with pytest.raises(ConfigError, match=r"documents.parquet: ends with token 100 of .*tokens.npy, which has 99"):
        Plan(tmp_path, tmp_path)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.tuples(st.sets(st.integers(1, 9)), st.integers(0, 2**9 - 1)), min_size=1, max_size=4))
def test_masks_follow_the_ranges(cuts: list[tuple[set[int], int]]) -> None:
    """Sequences of 10 tokens cut anywhere, each range a document or of the prefixes as the bits say."""
    rows, wanted = [], []
    for sequence, (cut, bits) in enumerate(cuts):
        edges = [0, *sorted(cut), 10]
        kinds = [-2 if bits >> i & 1 else i for i in range(len(edges) - 1)]
        kinds = [k if k >= 0 or end - start <= 7 else 0 for k, (start, end) in zip(kinds, pairwise(edges), strict=True)]
        rows += [(0, sequence, k, 0, end - start) for k, (start, end) in zip(kinds, pairwise(edges), strict=True)]
        real = [k >= 0 for k, (start, end) in zip(kinds, pairwise(edges), strict=True) for _ in range(start, end)]
        wanted.append(real[1:])
    with TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), rows)
        found, bounds = plan.loss_mask(0), plan.bounds(0).tolist()
    if all(row[2] >= 0 for row in rows):
        assert found is None
    else:
        assert found is not None and found.tolist() == wanted
    assert set(range(0, 9 * len(cuts) + 1, 9)) <= set(bounds) and bounds == sorted(set(bounds))


def test_the_loss_is_over_what_counts_and_over_all_without_a_mask() -> None:
    model, objective = toy_model(), NextToken()
    ids = torch.randint(0, 261, (3, 9), generator=torch.Generator().manual_seed(0))
    counted = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) < 0.6
    logps = model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    loss, _ = objective(model, ids, None, int(counted.sum()), counted)
    torch.testing.assert_close(loss, -logps[counted].mean(), rtol=1e-5, atol=0)
    whole, _ = objective(model, ids, None, 24)
    masked, _ = objective(model, ids, None, 24, torch.ones_like(counted))
    assert torch.equal(whole, masked)
