"""`tokenmill rates`: its formulas beside cases by hand and exact eigenvalues, and the command on a small plan."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flows.cli import rates
from lm.curvature import MOVE, adam_scales, largest_eigenvalue, sharpness
from lm.linears.base import roles_of
from lm.optimizers import AdamW, Lion
from lm.range_test import Rising, bisect, has_learned, largest_stable, smoothed, steepest
from lm.training.batch import Batch
from lm.training.parallel.exact import Exact
from tests.lm.models import toy_model
from tests.pretrain import test_waits
from tests.project import TINY


def test_rates_rise_by_equal_factors() -> None:
    rising = Rising(lowest=0.01, highest=100.0, steps=5)
    assert [rising(step, 999) for step in range(5)] == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert Rising(lowest=2.0, highest=2.0, steps=1)(0, 1) == 2.0


def test_what_a_range_test_says_by_hand() -> None:
    # means of the first are the losses themselves: 4, (0.9 x 0.1 x 4 + 0.1 x 2) / 0.19
    assert smoothed([4.0, 2.0]) == pytest.approx([4.0, (0.36 + 0.2) / 0.19])
    rates_of, losses = [1.0, 2.0, 4.0, 8.0, 16.0], [4.0, 3.9, 2.0, 2.0, 40.0]
    assert largest_stable(rates_of, losses) == 8.0 and largest_stable(rates_of, [4.0] * 5) == 16.0
    assert steepest(rates_of, losses) == 4.0 and steepest([3.0], [1.0]) == 3.0


def test_the_largest_rate_is_found_by_halvings() -> None:
    tried: list[float] = []

    def learns(factor: float) -> bool:
        tried.append(factor)
        return factor <= 5.0

    found = bisect(learns, 0.01, 100.0, 12)
    assert found is not None and found <= 5.0 < found * 10 ** (4 / 2**12) * 1.001
    assert tried[:4] == pytest.approx([0.01, 100.0, 1.0, 10.0]) and len(tried) == 14
    assert bisect(lambda factor: False, 0.1, 1.0, 3) is None and bisect(lambda factor: True, 0.1, 1.0, 3) == 1.0
    assert has_learned([4.0, 5.0, 5.0, 3.0], 4) and not has_learned([4.0, 3.0, 3.0, 5.0], 4)
    assert not has_learned([4.0, 3.0], 4)


@pytest.mark.parametrize("iterations", [16, 40])
def test_lanczos_finds_the_largest_eigenvalue_and_not_the_largest_in_size(iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64))
    values = torch.linspace(-9, 3, 24, dtype=torch.float64).square().mul(0.1) * torch.linspace(-1, 1, 24).sign()
    matrix = basis @ torch.diag(values) @ basis.T
    start = torch.randn(24, generator=generator, dtype=torch.float64)
    found = largest_eigenvalue(lambda v: matrix @ v, start, iterations)
    assert found == pytest.approx(float(values.max()), rel=1e-9 if iterations == 40 else 0.05)
    assert found <= float(values.max()) + 1e-9
    assert largest_eigenvalue(lambda v: 2 * v, start, 5) == pytest.approx(2.0)


def bent(weights: list[Tensor], x_NI: Tensor) -> Batch:
    """A small network with a curvature that an exact Hessian is made of."""

    def loss(rows: slice) -> tuple[Tensor, dict[str, float]]:
        return ((x_NI[rows] @ weights[0]).tanh() @ weights[1]).square().sum() / len(x_NI), {}

    return Batch(len(x_NI), 1, len(x_NI), loss)


@pytest.mark.parametrize("scaled", [False, True])
def test_sharpness_is_that_of_the_exact_hessian_and_leaves_the_weights(scaled: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weights, x_NI = [draw(3, 4).requires_grad_(), draw(4, 2).requires_grad_()], draw(6, 3)
    scales = draw(20).exp() if scaled else None

    def whole(flat: Tensor) -> Tensor:
        first, second = flat.split([12, 8])
        return ((x_NI @ first.view(3, 4)).tanh() @ second.view(4, 2)).square().sum() / len(x_NI)

    flat = torch.cat([weight.detach().flatten() for weight in weights])
    hessian = torch.autograd.functional.hessian(whole, flat)
    if scales is not None:
        hessian = scales[:, None] * hessian * scales
    before = [weight.detach().clone() for weight in weights]
    found = sharpness(bent(weights, x_NI), 4, weights, scales, 20)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=100 * MOVE**2)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, weights, strict=True))


def test_adam_scales_are_of_its_squares_and_other_optimizers_have_none() -> None:
    ranks, model = Exact(1), toy_model()
    optimizer = ranks.distribute(model, AdamW(beta2=0.9, eps=1e-3))
    assert adam_scales(ranks) is None  # before an update
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 0.5)
    optimizer.step()
    optimizer.step()
    scales = adam_scales(ranks)
    # squares of 0.25 each time: corrected, 0.25
    torch.testing.assert_close(scales, torch.full_like(scales, 1 / math.sqrt(0.5 + 1e-3)))
    ranks.distribute(toy_model(), Lion())
    assert adam_scales(ranks) is None and roles_of(model)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(test_waits, "STEPS", 12)
    test_waits.prepare(tmp_path / "data")
    (tmp_path / "params.yaml").write_text(json.dumps(TINY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FEW = ["--steps", "10", "--within", "4", "--tries", "2", "--at", "0", "3", "--iterations", "3"]


def test_the_command_says_all_of_it_and_keeps_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(project.rglob("*"))
    assert rates.main(["pretrain", *FEW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    curve = found["curve"]
    assert 1 < len(curve) <= 10 and curve[0]["rate"] == pytest.approx(0.01 * found["rate"])
    assert all(a["rate"] < b["rate"] for a, b in zip(curve, curve[1:], strict=False))
    assert found["largest_stable"] in [one["rate"] for one in curve]
    assert [one["step"] for one in found["sharpness"]] == [0, 3] and found["sharpness"][1]["sharpness"] > 0
    assert sorted(project.rglob("*")) == before
    assert rates.main(["pretrain", *FEW]) == 0 and "largest stable rate: " in capsys.readouterr().out


def test_looking_changes_nothing(project: Path) -> None:
    def losses(at: list[int]) -> list[float]:
        place = project / str(len(at))
        trials = rates.Trials("pretrain", TINY, project / "data", place)
        return trials(None, lambda scratch: rates.Trial(scratch, 6, at, 3)).losses  # type: ignore[arg-type]

    assert losses([]) == losses([0, 3])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["filter"], "rates: filter: no stage that trains a model\n"),
        (["no/stage"], "rates: no/stage: no stage that trains a model\n"),
        (["pretrain", "--lowest", "2", "--highest", "1"], "rates: --lowest must be above 0 and below --highest"),
    ],
)
def test_what_cannot_be_asked_is_a_line(
    project: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rates.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1


def test_data_that_are_not_there_are_a_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data/curriculum/plan.parquet").unlink()
    assert rates.main(["pretrain", *FEW]) == 2
    assert capsys.readouterr().err.count("\n") == 1
