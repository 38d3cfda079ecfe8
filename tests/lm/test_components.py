"""Components of a run, which go on where a checkpoint left them, and losses over rows that stay together."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.averages import Ema
from lm.config import ConfigError
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch, Metrics, backward, equal_parts, rows_at_once, split_batch
from lm.training.components import Component
from lm.training.data.conversations import token_logps
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder

RECIPE = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Ema(), clip=1.0)
ROWS, LENGTH, STEPS = 8, 12, 7


class Selector(Component):
    """Learns next from those rows of a step whose like had the highest loss so far: data that follow from losses."""

    name = "selector"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self._means, self._chosen = torch.zeros(4, dtype=torch.float64), 0

    def begin(self, step: int) -> None:
        self.calls.append(("begin", step))
        self._chosen = step if step < 4 else int(self._means.argmax())

    def after(self, step: int, loss: float, norm: float) -> None:
        self.calls.append(("after", step))
        self._means[self._chosen % 4] = loss + 0.1 * norm

    def batch(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self._chosen + step)
        return torch.randint(0, 261, (ROWS, LENGTH + 1), generator=generator)

    def state(self) -> dict[str, Tensor]:
        return {"means": self._means.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._means = state["means"].clone()


class Refresh(Component):
    """Sets the smallest tenth of a matrix to 0 again and again: what a pruning schedule does. Its first state is empty."""

    name = "refresh"

    def __init__(self, model: Decoder) -> None:
        self._weight, self._mask = model.blocks[0].ffn.up.weight, None

    @torch.no_grad()
    def after(self, step: int, loss: float, norm: float) -> None:
        if step % 3 == 1:
            size = self._weight.abs().flatten()
            self._mask = (size > size.kthvalue(len(size) // 10).values).view_as(self._weight)
        if self._mask is not None:
            self._weight.mul_(self._mask)

    def state(self) -> dict[str, Tensor]:
        return {} if self._mask is None else {"mask": self._mask}

    def load(self, state: dict[str, Tensor]) -> None:
        self._mask = state.get("mask")


def fit(
    scratch: Path, after: int | None = None, kinds: tuple[str, ...] = ("selector", "refresh")
) -> tuple[Decoder, Selector]:
    model, selector = toy_model(seed=1), Selector()
    every: dict[str, Component] = {"selector": selector, "refresh": Refresh(model)}

    def batch_at(step: int) -> Batch:
        ids = selector.batch(step)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            everywhere = torch.arange((rows.stop - rows.start) * LENGTH)
            return -token_logps(model, ids[rows], everywhere).sum() / (ROWS * LENGTH), {}

        return Batch(ROWS, LENGTH, ROWS * LENGTH, loss)

    train(model, RECIPE, STEPS, batch_at, Recorder(scratch, after), components=[every[kind] for kind in kinds])
    return model, selector


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_that_was_stopped_goes_on_with_what_its_components_knew(after: int, tmp_path: Path) -> None:
    whole, selector = fit(tmp_path / "whole")
    assert selector.calls == [(call, step) for step in range(STEPS) for call in ("begin", "after")]
    done = 0
    while done + after < STEPS:
        with pytest.raises(Stopped):
            fit(tmp_path / "cut", after)
        done += after
    resumed, last = fit(tmp_path / "cut")
    assert last.calls[0] == ("begin", done)
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert (whole.blocks[0].ffn.up.weight == 0).sum() < whole.blocks[0].ffn.up.weight.numel() / 5


def test_what_a_component_does_is_seen_in_the_weights(tmp_path: Path) -> None:
    """Else the test above would say little."""
    both, one = (fit(tmp_path / str(len(kinds)), None, kinds)[0] for kinds in (("selector", "refresh"), ("selector",)))
    assert not torch.equal(both.norm.weight, one.norm.weight)


def test_a_checkpoint_of_other_components_is_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path, 2)
    with pytest.raises(ValueError, match=r"it has components.refresh.mask, .* which is not here"):
        fit(tmp_path, None, ("selector",))


def pairs(model: Decoder, ids: Tensor) -> Batch:
    """A preference loss: of each pair of rows the first is to be likelier."""

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        everywhere = torch.arange((rows.stop - rows.start) * LENGTH)
        sums_P2 = token_logps(model, ids[rows], everywhere).sum(1).view(-1, 2)
        return -torch.nn.functional.logsigmoid(0.1 * (sums_P2[:, 0] - sums_P2[:, 1])).sum() / (len(ids) // 2), {}

    return Batch(len(ids), LENGTH, ids.numel(), loss, together=2)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(0, 200))
def test_a_loss_of_pairs_is_the_same_in_any_parts(count: int, positions: int) -> None:
    ids = torch.randint(0, 261, (2 * count, LENGTH + 1), generator=torch.Generator().manual_seed(count))
    model = toy_model().double()
    whole, _ = backward(pairs(model, ids), 10_000)
    grads = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    parts, _ = backward(pairs(model, ids), positions)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, grads[name], rtol=1e-9, atol=1e-13)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 500))
def test_no_block_is_cut_and_parts_are_as_equal_as_can_be(together: int, blocks: int, positions: int) -> None:
    batch = Batch(together * blocks, 10, 0, lambda rows: (torch.zeros(()), {}), together=together)
    at_once = rows_at_once(batch, positions)
    parts = equal_parts(slice(0, batch.rows), at_once, together)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(batch.rows))
    sizes = [part.stop - part.start for part in parts]
    assert all(size % together == 0 for size in sizes) and max(sizes) - min(sizes) <= together
    assert max(sizes) <= max(together, positions // 10) and len(parts) == -(-batch.rows // at_once)


def test_ranks_do_not_cut_a_block() -> None:
    batch = Batch(8, 10, 0, lambda rows: (torch.zeros(()), {}), together=4)
    assert split_batch(batch, 2, "ranks") == [slice(0, 4), slice(4, 8)]
    with pytest.raises(ConfigError, match="8 sequences, 4 of which stay together, cannot be cut into 4 equal ranks"):
        split_batch(batch, 4, "ranks")
