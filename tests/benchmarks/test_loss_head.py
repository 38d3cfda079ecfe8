"""The loss head's gate, its measure of memory, and the formula that peers are held against."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.loss_head import extra_memory, gate, inputs, peers, plain
from kernels.linear_cross_entropy.bench_linear_cross_entropy import arms


def saved(path: Path, **changed: torch.Tensor) -> str:
    answer = {"loss": torch.tensor(10.0), "x": torch.ones(4, 4), "weight": torch.ones(8, 4)}
    save_file({**answer, **changed}, path)
    return str(path)


def test_the_gate_names_what_differs(tmp_path: Path) -> None:
    same = saved(tmp_path / "a")
    assert gate(same, saved(tmp_path / "b", loss=torch.tensor(10.0 + 5e-6), x=torch.ones(4, 4) * (1 + 5e-6))) == ""
    assert gate(same, saved(tmp_path / "c", loss=torch.tensor(10.0 + 5e-5))).startswith("loss differs by 5")
    assert gate(same, saved(tmp_path / "d", weight=torch.full((8, 4), 1.001))) == "weight differs by 0.001"
    assert "x differs by nan" in gate(same, saved(tmp_path / "e", x=torch.full((4, 4), torch.nan)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_extra_memory_is_what_a_run_holds_beyond_what_it_returns() -> None:
    def run() -> torch.Tensor:
        kept = torch.ones(2**22)
        return kept.mul_(torch.ones(2**24).sum())  # 64 MiB for a while, 16 MiB returned

    run()
    # pages and the allocator's own: within a few MiB
    assert 60 * 2**20 < extra_memory(run, 2**24) < 70 * 2**20


def test_a_softcap_bounds_the_logits() -> None:
    x, weight, targets = inputs(3, 4, 5)
    logits = x @ weight.T
    capped = 15 * torch.tanh(logits / 15)
    by_hand = -torch.log_softmax(capped, 1)[torch.arange(3), targets].mean()
    torch.testing.assert_close(plain(15.0)(x, weight, targets), by_hand)
    assert plain(0.0)(x, weight, targets) != by_hand


def test_inputs_are_the_same_in_every_process() -> None:
    assert all(torch.equal(a, b) for a, b in zip(inputs(3, 4, 5), inputs(3, 4, 5), strict=True))


def test_a_torch_without_the_operator_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    def heads() -> tuple[bool, bool]:
        return "torch chunked" in peers(0.0), "torch linear_cross_entropy" in arms((4, 2, 8))[0]

    assert heads() == (hasattr(torch.nn.functional, "linear_cross_entropy"),) * 2
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy", raising=False)
    assert heads() == (False, False) and "plain" in peers(0.0)
