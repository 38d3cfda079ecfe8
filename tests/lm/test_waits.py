"""How often the host waits for the device in a step: once, before the update; counted with a stand-in for the device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy
from lm.averages import Ema
from lm.optimizers import AdamW, Muon
from lm.optimizers.adamw import AdamWOptimizer
from lm.training.batch import Batch, Metrics
from lm.training.loop import train
from lm.training.prefetch import Prefetcher
from lm.training.recipe import Recipe
from lm.transfer import Tensors
from tests.lm.models import toy_model
from tests.lm.test_digests import Witness
from tests.lm.test_training import recipe
from tests.lm.waits import Device

STEPS = 4
CPU = torch.device("cpu")


class Counting(Witness):
    """Keeps how many waits there were until each step was said."""

    def __init__(self, scratch: Path, device: Device | None = None) -> None:
        super().__init__(scratch)
        self.scratch, self._device, self.waits, self.traces = None, device, [0], []

    def traced(self, traces: Tensor) -> None:
        self.traces += traces.tolist()

    def __call__(self, step: int, **values: float) -> None:
        super().__call__(step, **values)
        self.waits.append(len(self._device.waits) if self._device else 0)

    @property
    def each(self) -> list[int]:
        """Waits of each step."""
        return [after - before for before, after in zip(self.waits, self.waits[1:], strict=False)]


def fitted(how: Recipe, log: Counting, device: Device | None, more: Callable[[Tensor], Any]) -> Counting:
    """A run whose batches, metrics and traces are those of a stage; `more` makes a figure of the loss."""
    model = toy_model(seed=1)
    if device:
        device.put_model(model)

    def fetch(step: int) -> Tensors:
        return (torch.randint(0, 261, (4, 17), generator=torch.Generator().manual_seed(step)), None)

    def batch(step: int, host: Tensors, here: Tensors) -> Batch:
        ids, losses = here[0], []

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            x_TD = model.hidden(ids[rows, :-1]).flatten(0, 1)
            share, cross_entropy = linear_cross_entropy(
                x_TD, model.head_weight, ids[rows, 1:].flatten(), denominator=64
            )
            losses.append(share.detach().view(1))
            return share, {"cross_entropy": cross_entropy, "rows": 4.0, "more": more(share)}

        return Batch(4, 16, 64, loss, {"reward": 0.5}, lambda: torch.cat(losses), log.traced, host[:1])

    with Prefetcher(fetch, batch, STEPS, CPU) as batch_at:
        train(model, how, STEPS, batch_at, log)
    return log


def halved(share: Tensor) -> Tensor:
    """A figure that stays where the loss is."""
    return share.detach() / 2


RECIPES = {
    "AdamW": recipe(optimizer=AdamW),
    "Muon": recipe(optimizer=Muon),
    "average": recipe(optimizer=AdamW, average=Ema),
    "shards": recipe(optimizer=Muon, shards=2),
    "guard": recipe(optimizer=AdamW, skip_sigmas=6.0, stop_factor=2.0),
    "bf16": recipe(optimizer=AdamW, precision="bf16"),
}


@pytest.mark.parametrize("positions", ["64", "32"], ids=["whole", "in parts"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_host_waits_once_a_step(name: str, positions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it has read, curves and digests of the weights, is what a CPU says."""
    monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    plain = fitted(RECIPES[name], Counting(tmp_path), None, halved)
    with monkeypatch.context() as patch, (device := Device(patch)):
        found = fitted(RECIPES[name], Counting(tmp_path, device), device, halved)
    assert found.each == [1] * STEPS, device.waits
    assert found.points == plain.points and found.said == plain.said and found.traces == plain.traces != []
    assert all("weights" in said for said in found.said.values())


def test_a_figure_that_is_read_is_a_wait_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", "64")
    with monkeypatch.context() as patch, (device := Device(patch)):
        found = fitted(recipe(), Counting(tmp_path, device), device, lambda share: share.item())
    assert found.each == [2] * STEPS


def test_it_waits_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", "64")
    seen: list[int] = []
    with monkeypatch.context() as patch, (device := Device(patch)):
        update = AdamWOptimizer.update

        def watched(*arguments: Any) -> None:
            seen.append(len(device.waits))
            update(*arguments)

        patch.setattr(AdamWOptimizer, "update", watched)
        fitted(recipe(), Counting(tmp_path, device), device, halved)
    assert seen == [step + 1 for step in range(STEPS) for _ in range(len(seen) // STEPS)] and seen


WAITS = {
    "item": lambda x, host: x[0].item(),
    "condition": lambda x, host: bool((x > 0).any()),
    "int": lambda x, host: int(x.sum()),
    "float": lambda x, host: float(x[0]),
    "tolist": lambda x, host: x.tolist(),
    "cpu": lambda x, host: x.cpu(),
    "to host": lambda x, host: x.to("cpu"),
    "nonzero": lambda x, host: x.nonzero(),
    "mask": lambda x, host: x[x > 0],
    "from a list": lambda x, host: torch.tensor([1.0, 2.0], device=CPU),
    "from a number": lambda x, host: torch.as_tensor(1.0, device=CPU),
    "to": lambda x, host: host.to(CPU),
    "copy": lambda x, host: x.copy_(host),
}
NONE = {
    "of the host": lambda x, host: (host[0].item(), host.tolist(), host.nonzero(), host[host > 0], bool(host.any())),
    "asynchronous": lambda x, host: host.to(CPU, non_blocking=True),
    "made there": lambda x, host: (torch.zeros(3, device=CPU) + x, torch.full((), 3.0, device=CPU)),
    "places": lambda x, host: x[torch.arange(2, device=CPU)],
    "computed": lambda x, host: (x.double().sum() + 1 > 0, x.to(CPU), torch.stack([x, x])),
    "a copy that nobody waits for": lambda x, host: host.copy_(x, non_blocking=True),
}


@pytest.mark.parametrize("name", [*WAITS, *NONE])
def test_the_stand_in_counts_what_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, (device := Device(patch)):
        x = device.put(torch.ones(3))
        ({**WAITS, **NONE})[name](x, torch.zeros(3))
    assert len(device.waits) == (name in WAITS)


def test_what_is_not_on_the_device_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, (device := Device(patch)):
        x, host = device.put(torch.ones(3)), torch.zeros(3)
        for mixed in (lambda: x + host, lambda: x[torch.arange(2)]):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        with pytest.raises(TypeError):
            x.numpy()
        host.copy_(x, non_blocking=True)
        assert host.tolist() == [0, 0, 0]
        x[0].item()
        assert host.tolist() == [1, 1, 1]
