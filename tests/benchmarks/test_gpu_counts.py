"""What a step moves on a GPU stays below its bound, and the counter counts what it says."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import gpu_counts
from benchmarks import step_counts as counting
from benchmarks.contest import Result, run_contest
from benchmarks.step_counts import BANDWIDTH, PRODUCTS, Counting, Counts, flops_of_shape, step_counts


def counted(*calls) -> Counts:
    """Of operators on fake tensors a (1000, 64), b (64, 32) and c (1000, 64) in bf16."""
    counts = Counts()
    with FakeTensorMode():
        a, b, c = torch.empty(1000, 64), torch.empty(64, 32), torch.empty(1000, 64, dtype=torch.bfloat16)
        with Counting(counts):
            for call in calls:
                call(a, b, c)
    return counts


@pytest.mark.parametrize(
    ("call", "kind", "moved"),
    [
        (lambda a, b, c: a + a, "adds", 3 * 4),
        (lambda a, b, c: a.add_(a), "adds", 3 * 4),
        (lambda a, b, c: a + c, "adds", 4 + 2 + 4),
        (lambda a, b, c: a.bfloat16(), "casts", 4 + 2),
        (lambda a, b, c: c.copy_(a), "casts", 4 + 2),
        (lambda a, b, c: torch.zeros_like(a), "other", 4),
        (lambda a, b, c: a * torch.ones(1), "other", 8),
        (lambda a, b, c: a + a[:1].expand_as(a), "adds", 8),
    ],
)
def test_bytes_of_an_operator(call, kind: str, moved: int) -> None:
    # within the bytes of one row, or of a scalar
    assert counted(call).bytes[kind] == pytest.approx(moved * 64_000, abs=256)


def test_views_and_empty_tensors_move_nothing() -> None:
    counts = counted(lambda a, b, c: (a.view(-1), a.T, a[3:], a.detach(), torch.empty_like(a), a.new_empty(5)))
    assert not counts.bytes and not counts.launches


def test_products_take_their_flop_or_their_bytes() -> None:
    flops, moved = 2 * 1000 * 64 * 32, 4 * (64_000 + 2048 + 32_000)
    for product in (lambda a, b, c: a @ b, lambda a, b, c: torch.mm(a, b, out=torch.empty(1000, 32))):
        counts = counted(product)
        assert counts.flops["products"] == flops and counts.bytes["products"] == moved
        assert counts.seconds["products"] == max(moved / BANDWIDTH, flops / PRODUCTS)
    added = counted(lambda a, b, c: torch.empty(1000, 32).addmm_(a, b))
    assert added.flops["products"] == flops and added.bytes["products"] == moved + 4 * 32_000


def test_kernels_touch_each_argument_once_and_logits_twice() -> None:
    counts, x = Counts(), torch.zeros(10, 8)
    counts.kernel("swiglu._forward", (x, x[:5], 3, x))
    counts.kernel("linear_cross_entropy._derivative", (x, 8, x[0]))
    assert counts.bytes["swiglu"] == 320 + 160 and counts.bytes["loss"] == 2 * 320 + 32


def test_causal_attention_is_half_of_its_products() -> None:
    counts, q, k = Counts(), torch.zeros(2, 4, 128, 16), torch.zeros(2, 2, 128, 16)
    counts.kernel("attention.forward", (q, k, k))
    assert counts.flops["attention"] == 2 * (2 * 2 * 4 * 128 * 128 * 16) / 2


def test_the_step_stays_below_its_bound() -> None:
    """Predicted ms of 65,536 tokens of gpu-124m, and little more than what is counted now."""
    wide, low = (gpu_counts.milliseconds(stream) for stream in ("fp32", "bf16"))
    assert wide["all"] < 115 and low["all"] < 110
    # attention and products are what they were: nothing is left out of the count
    for kind in ("attention", "products"):
        assert wide[kind] == pytest.approx(gpu_counts.STEP_BEFORE[kind], rel=0.01)


def test_norms_that_write_fp32_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    low = step_counts("fp32")
    monkeypatch.setattr("lm.norms.rms_norm.autocast_dtype", lambda x: None)
    monkeypatch.setattr("lm.model.autocast_dtype", lambda x: None)
    wide = step_counts.__wrapped__("fp32")
    assert wide.seconds["casts"] > 5 * low.seconds["casts"]
    assert sum(wide.seconds.values()) > 1.05 * sum(low.seconds.values())


def test_rows_have_before_and_after() -> None:
    """A count that has the FLOP of the shape has a row; one that left work out, or has it twice, fails the gate and has no
    value."""

    def held(products: float) -> list[Result]:
        work = {"products": products}
        return list(
            run_contest(
                gpu_counts.counting_contest(
                    "new", lambda: {"a": 2.0}, {"a": 3.0}, "ms", "1234567", lambda: work, {"products": 6.0}
                )
            )
        )

    ours, peer = held(6.0)
    assert (ours.metric, ours.value, ours.ratios, peer.value) == ("predicted_a", 2.0, [1.5], 3.0)
    assert ours.gate == "passed"
    for wrong in (5.0, 12.0, 0.0):
        (only,) = held(wrong)
        assert only.value is None and only.gate.startswith(f"failed: products: {wrong:g} FLOP were counted"), only


def test_the_flop_of_a_step_and_of_decoding_are_those_of_the_shape() -> None:
    for stream in ("fp32", "bf16"):
        assert gpu_counts.same_work(gpu_counts.of_step(stream), flops_of_shape()) == ""
    there = gpu_counts.decoding_counts()["flops_of_shape"]
    assert gpu_counts.same_work(gpu_counts.of_decoding(), {"products": there}) == ""


@pytest.mark.parametrize("lost", ["mm", "attention"])
def test_an_operator_that_is_not_counted_fails_the_gate(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: products by `mm`, or attention, are taken for something else."""
    if lost == "mm":
        monkeypatch.delitem(counting.MATRIX_PRODUCTS, "mm")
    else:
        monkeypatch.setattr(Counts, "_attention", lambda counts, name, q, k, v: counts.add("other", 1.0))
    counts = step_counts.__wrapped__("fp32")
    assert "FLOP were counted" in gpu_counts.same_work(dict(counts.flops), flops_of_shape())
