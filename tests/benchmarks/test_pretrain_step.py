"""What the pretraining step is compared by: operations, the gate, and the same weights and batches in every arm."""

from pathlib import Path

import pytest
import torch

from benchmarks.plain import batches, load
from benchmarks.pretrain_step import XS, M, Size, gate, learnable, prepare, roof_share, shape
from benchmarks.steps import Steps
from lm.hugging_face.load import load_hf
from lm.model import Decoder
from lm.training.data.plan import Plan
from lm.training.flops import flops_per_token
from tasks.pretrain.objectives import NextToken

SMALL = Size("small", shape(512, 32, 2, 48, 16), sequences=3, steps=1)


def test_operations_by_hand() -> None:
    # a layer of XS: 4 x 128^2 + 3 x 128 x 344 = 197,632; the head 4096 x 128 = 524,288; attention 4 x 128 x 256 = 131,072
    assert flops_per_token(Decoder(XS.model), 256) == 6 * (4 * 197_632 + 524_288) + 6 * 131_072 == 8_675_328
    # a layer of M: 4 x 256^2 + 3 x 256 x 704 = 802,816; the head 8192 x 256; attention 6 x 256 x 512
    assert flops_per_token(Decoder(M.model), 512) == 6 * (6 * 802_816 + 2_097_152) + 6 * 786_432 == 46_202_880


def test_the_gate_names_the_first_step_that_differs() -> None:
    assert gate([8.0, 7.0], [8.0, 7.0005]) == ""
    assert gate([8.0, 7.0, 6.0], [8.0, 7.001, 6.1]) == "loss of step 1: ours 7.000000, peer 7.001000"
    assert gate([float("nan")], [8.0]) != ""
    with pytest.raises(ValueError):
        gate([8.0], [8.0, 7.0])


def test_all_arms_see_the_same_batches_and_weights(tmp_path: Path) -> None:
    prepare(tmp_path, SMALL)
    plan = Plan(tmp_path / "curriculum", tmp_path / "tokenize")
    theirs = batches(tmp_path, 3 * 16)
    assert plan.steps == len(theirs) >= Steps.FIRST
    assert all(torch.equal(plan.batch(step), ids) for step, ids in enumerate(theirs))
    ours, peer, ids = load_hf(tmp_path / "model"), load(tmp_path / "model"), theirs[0]
    # two orders of the same fp32 sums
    torch.testing.assert_close(
        peer(ids[:, :-1], ids[:, 1:]), NextToken()(ours, ids, None, ids[:, 1:].numel())[0], atol=0, rtol=1e-5
    )


def test_the_batches_can_be_learnt() -> None:
    ids = torch.from_numpy(learnable(50, 200, 30))
    pairs = torch.zeros(50, 50).index_put_((ids[:, :-1].flatten(), ids[:, 1:].flatten()), torch.tensor(1.0), True)
    # 7 of 8 follow, and of the others 1 of 50 does by chance: 0.8775, with a standard deviation of 0.004
    assert abs(float(pairs.amax(1).sum() / pairs.sum()) - 0.8775) < 0.02


def test_the_share_of_the_roof_is_that_of_the_product_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pretrain_step.ROOF_SIDE", 64)
    ticks = iter(range(100))
    monkeypatch.setattr("benchmarks.pretrain_step.time.perf_counter", lambda: float(next(ticks)))
    assert roof_share(64**3) == {"roof_share": 50.0}  # every product takes one tick: 2 x 64^3 a second
