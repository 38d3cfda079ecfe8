"""Bytes of a step of decoding: within a bound of what cannot be spared, and counted so that a copy of the cache would show."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.decode_counts import SHAPE, decode_counts
from benchmarks.step_counts import Counting, Counts
from lm.mixers import attention

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def counts() -> dict[str, float]:
    """Of a step as it is."""
    return decode_counts()


def test_a_token_moves_little_more_than_it_must(counts: dict[str, float]) -> None:
    found = counts
    # 24 layers x 512 rows x 288 slots x 16 heads x 64 numbers x keys and values x 2 bytes
    assert found["cache"] == 24 * 512 * 288 * 16 * 64 * 2 * 2
    assert found["ideal"] == pytest.approx(15.2e9, rel=0.01)
    assert 1 <= found["times"] <= 1.3


def test_grouped_heads_move_no_more(counts: dict[str, float]) -> None:
    grouped = SHAPE.model_copy(update={"kv_heads": 4})
    few, many = decode_counts(grouped), counts
    assert few["cache"] == many["cache"] / 4
    # what is beside the cache is no more than with a head each: keys and values are not repeated
    assert few["moved"] - few["cache"] <= many["moved"] - many["cache"]


@pytest.mark.parametrize("plant", ["fp32", "copied", "masked"])
def test_what_it_must_not_do_shows(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    after = attention.Heads.after

    def copied(self, q, k, v, context):
        context.state.keys_BKCE.clone()
        return after(self, q, k, v, context)

    def masked(self, shape, context, rows, length):
        slots = torch.arange(context.state.keys_BKCE.shape[2])
        return attention.by_query(slots <= context.positions_BT[..., None], shape)

    if plant == "copied":
        monkeypatch.setattr(attention.Heads, "after", copied)
    if plant == "masked":
        monkeypatch.setattr(attention.Attention, "prepare", masked)
    assert decode_counts(low=plant != "fp32")["times"] > 1.3


def test_what_counts_as_moved() -> None:
    with FakeTensorMode():
        x, table, ids = torch.zeros(8, 4), torch.zeros(1000, 4), torch.zeros(3, dtype=torch.int64)
        for operation, expected in (
            (lambda: x.T[1:].unsqueeze(0), 0),
            (lambda: x + 1, 2 * 128),
            (lambda: x.add_(1), 2 * 128),
            (lambda: x.copy_(table[:8]), 2 * 128),
            (lambda: x.bfloat16(), 128 + 64),
            (lambda: torch.nn.functional.embedding(ids, table), 2 * 48 + 24),
            (lambda: torch.mm(x, x.T, out=torch.empty(8, 8)), 2 * 128 + 256),
            (lambda: x.expand(50, 8, 4) + 0, 128 + 50 * 128),
        ):
            counts = Counts()
            with Counting(counts):
                operation()
            assert sum(counts.bytes.values()) == expected


def test_the_launches_of_a_layer_are_few(counts: dict[str, float]) -> None:
    shorter = SHAPE.model_copy(update={"layers": 4})
    per_layer = (counts["launches"] - decode_counts(shorter)["launches"]) / 20
    assert per_layer <= 22
