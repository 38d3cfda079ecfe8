"""Picking a token: the kernel against the sum laid out in fp64, which tokens points fall on, and the likeliest of equals."""

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.pick import cpu, pick, reference

# An exponential of fp32 is right to some 1e-7 of itself, and so is where a token ends.
EDGE = 1e-6
SIZES = [1, 2, 15, 16, 17, 261, 12000]  # one tile, short by one and over by one; three tiles


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("kernels.pick.triton", reason="needs triton", exc_type=ImportError)


def logits_of(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def assert_under_the_points(ids: Tensor, logits: Tensor, temperature: float, points: Tensor) -> None:
    """Each point lies between where its token begins and ends, in fp64."""
    ends = (logits.double() / temperature).softmax(-1).cumsum(-1)
    begins = torch.nn.functional.pad(ends, (1, 0))[:, :-1]
    begin, end = (x.gather(1, ids[:, None].cpu())[:, 0] for x in (begins, ends))
    assert ((begin - EDGE <= points) & (points <= end + EDGE)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "temperature"), [*((size, t) for size in SIZES for t in (0.0, 0.7)), (261, 1.0)])
def test_kernel_and_reference(
    triton: ModuleType, device: torch.device, size: int, temperature: float, dtype: torch.dtype
) -> None:
    logits = logits_of(9, size).to(dtype)
    points = torch.linspace(0, 1 - 2**-53, 9, dtype=torch.float64)
    for f, place in ((triton.pick, device), (pick, torch.device("cpu"))):
        ids, logps = f(logits.to(place), temperature, points.to(place))
        ids, logps = ids.cpu(), logps.cpu()
        wide = logits.float() / (temperature or 1.0)
        wanted = wide.double().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(logps.double(), wanted, rtol=1e-6, atol=4e-6)  # logits of up to 18: two ulp of fp32
        if temperature:
            assert_under_the_points(ids, wide, 1.0, points)
        else:
            assert torch.equal(ids, logits.argmax(-1))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.integers(0, 2**30), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6))
def test_points_fall_on_tokens_that_have_a_share(size: int, seed: int, given_points: list[float]) -> None:
    triton = pytest.importorskip("kernels.pick.triton", reason="needs triton", exc_type=ImportError)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits, points = logits_of(len(given_points), size, seed), torch.tensor(given_points, dtype=torch.float64)
    logits[:, ::3] = -torch.inf
    for f, there in ((triton.pick, place), (reference.pick, torch.device("cpu"))):
        ids, _ = f(logits.to(there), 1.0, points.to(there))
        assert_under_the_points(ids, logits, 1.0, points)
        assert (ids.cpu() % 3 != 0).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("rows", [1, 3, 4, 10])
def test_some_rows_at_a_time_are_picked_as_all_at_once(
    rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 3 * 8 * 261)
    logits, points = logits_of(rows, 261), torch.linspace(0, 0.999, rows, dtype=torch.float64)
    for chunked, whole in zip(
        pick(logits, temperature, points), reference.pick(logits, temperature, points), strict=True
    ):
        assert torch.equal(chunked, whole)


def test_of_equals_the_lowest_and_a_row_alone(triton: ModuleType, device: torch.device) -> None:
    logits = torch.zeros(3, 5000)
    logits[1, [77, 4500]] = 2.0
    logits[2, 4999] = 1e-3
    ids, _ = triton.pick(logits.to(device), 0.0, torch.zeros(3, dtype=torch.float64, device=device))
    assert ids.tolist() == [0, 77, 4999] == reference.pick(logits, 0.0, torch.zeros(3).double())[0].tolist()
    more, points = logits_of(4, 300), torch.rand(4, generator=torch.Generator().manual_seed(1)).double()
    together = triton.pick(more.to(device), 1.0, points.to(device))
    alone = triton.pick(more[2:3].to(device), 1.0, points[2:3].to(device))
    assert all(torch.equal(some[2:3], one) for some, one in zip(together, alone, strict=True))


def test_worked_by_hand(triton: ModuleType, device: torch.device) -> None:
    # shares of 1/8, 4/8 and 3/8: ends at 0.125, 0.625 and 1
    logits = torch.tensor([[1.0, 4, 3]]).log().repeat(6, 1)
    points = torch.tensor([0, 0.124, 0.126, 0.624, 0.626, np.nextafter(1, 0)], dtype=torch.float64)
    for f, place in ((triton.pick, device), (pick, torch.device("cpu"))):
        ids, logps = f(logits.to(place), 1.0, points.to(place))
        assert ids.tolist() == [0, 0, 1, 1, 2, 2]
        torch.testing.assert_close(logps.cpu().exp(), torch.tensor([1, 1, 4, 4, 3, 3]) / 8, rtol=1e-6, atol=0)


def test_bad_shapes() -> None:
    for logits, points in ((torch.zeros(3), torch.zeros(3)), (torch.zeros(3, 4), torch.zeros(4))):
        with pytest.raises(ValueError, match="logits must be R V and points R"):
            pick(logits, 1.0, points)
