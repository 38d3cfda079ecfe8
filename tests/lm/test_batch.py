"""Parts of a batch add up to the whole, in loss, metrics and gradients, and memory decides how many there are."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from lm.config import ConfigError
from lm.memory_limits import memory_limits
from lm.optimizers import AdamW
from lm.training.batch import Batch, backward, equal_parts
from lm.training.memory import memory_bytes, positions_at_once, positions_in, saved_activation_bytes
from lm.training.parallel.exact import Exact
from tests.control_groups import make_control_groups
from tests.lm.models import toy_model

IDS = torch.randint(0, 261, (6, 17), generator=torch.Generator().manual_seed(0))
MASK = torch.rand(6, 16, generator=torch.Generator().manual_seed(1)) < 0.7


def batch_of(model) -> Batch:
    """Cross-entropy over the counted positions; the figure is how many there are."""

    def loss(rows: slice):
        logps = model(IDS[rows, :-1]).log_softmax(-1).gather(2, IDS[rows, 1:, None])[..., 0]
        return -(logps * MASK[rows]).sum() / MASK.sum(), {"counted": MASK[rows].sum()}

    return Batch(6, 16, int(MASK.sum()), loss)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 200))
def test_parts_give_the_gradients_of_the_whole(positions: int) -> None:
    model = toy_model().double()
    whole, metrics = backward(batch_of(model), 10_000)
    grads = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    parts, more = backward(batch_of(model), positions)
    # float64: sums of a few hundred terms in another order
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, grads[name], rtol=1e-9, atol=1e-14)
    assert more == metrics == {"counted": MASK.sum()}


@pytest.mark.parametrize(("positions", "expected"), [(0, 6), (15, 6), (16, 6), (33, 3), (50, 2), (96, 1), (1000, 1)])
def test_never_less_than_a_row_at_once(positions: int, expected: int) -> None:
    calls: list[slice] = []
    weight = torch.ones((), requires_grad=True)
    backward(Batch(6, 16, 96, lambda rows: (calls.append(rows) or weight * 1.0, {})), positions)
    assert len(calls) == expected and [row for part in calls for row in range(part.start, part.stop)] == list(range(6))


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(1, 70), st.integers(1, 80))
def test_parts_are_as_few_and_as_equal_as_can_be(first: int, rows: int, at_once: int) -> None:
    parts = equal_parts(slice(first, first + rows), at_once)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(first, first + rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= at_once and max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-rows // at_once), "the fewest"


def test_no_small_rest_by_hand() -> None:
    """What was 40, 40 and 20 rows is 33, 33 and 34; what divides is of one size."""
    assert [part.stop - part.start for part in equal_parts(slice(0, 100), 40)] == [33, 33, 34]
    assert [part.stop - part.start for part in equal_parts(slice(8, 72), 17)] == [16, 16, 16, 16]


def test_what_a_row_keeps_is_counted_to_the_byte() -> None:
    # x * w keeps x and w for its backward, exp its result: 5 floats each; the weight is known already.
    model = torch.nn.Linear(5, 1, bias=False)
    x = torch.ones(5)
    batch = Batch(1, 5, 5, lambda rows: ((x * model.weight[0]).exp().sum(), {}))
    assert saved_activation_bytes(model, batch) == 2 * 5 * 4


def test_what_a_pass_keeps_is_free_once_counted() -> None:
    """exp saves its own result: held by that, it would be there until the process ends."""
    weight, held = torch.ones(5, requires_grad=True), []

    def loss(rows: slice):
        made = weight.exp()
        held.append(StorageWeakRef(made.untyped_storage()))
        return made.sum(), {}

    assert saved_activation_bytes(torch.nn.Module(), Batch(1, 5, 5, loss)) == 5 * 4
    assert held[0].expired()


def test_what_does_not_grow_with_the_rows_is_counted_once() -> None:
    model = toy_model()
    whole = batch_of(model)

    def loss(rows: slice):
        """As if a tensor of 1000 floats were kept whatever the rows."""
        share, metrics = whole.loss(rows)
        return share + 0 * torch.ones(1000, requires_grad=True).exp().sum(), metrics

    batch = Batch(6, 16, whole.tokens, loss)
    memory = (
        20 * model.num_parameters() + saved_activation_bytes(model, batch) + 2.5 * saved_activation_bytes(model, whole)
    ) / 0.6
    assert positions_in(memory, model, batch, 20.0, 4.0) == int(3.5 * 16)


def test_recomputed_activations_keep_less_and_change_no_gradient() -> None:
    model = toy_model(layers=6)
    before = saved_activation_bytes(model, batch_of(model))
    backward(batch_of(model), 0)
    grads = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    model.recompute = True
    assert saved_activation_bytes(model, batch_of(model)) < before / 2
    backward(batch_of(model), 0)
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(model.parameters(), grads, strict=True))


def test_positions_follow_from_the_size_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, device, parallel = toy_model(), torch.device("cpu"), Exact(4)
    parallel.distribute(model, AdamW())
    each = saved_activation_bytes(model, batch_of(model), 2) - saved_activation_bytes(model, batch_of(model))
    # a quarter of the machine for each shard, since four ranks may share it
    expected = (0.6 * memory_bytes(device) / 4 - 20 * model.num_parameters()) / (each / 16)
    # what is kept but once is less than a row
    assert positions_at_once(parallel, batch_of(model), device) == pytest.approx(expected, abs=16)
    monkeypatch.setattr("lm.training.memory.memory_bytes", lambda device: 4 * 20 * model.num_parameters() / 0.6 + 100)
    assert positions_at_once(parallel, batch_of(model), device) == 0
    monkeypatch.setenv("TOKENMILL_POSITIONS", "77")
    assert positions_at_once(parallel, batch_of(model), device) == 77
    for text in ("many", "-1", "1.5"):
        monkeypatch.setenv("TOKENMILL_POSITIONS", text)
        with pytest.raises(ConfigError, match=f"TOKENMILL_POSITIONS: must be a whole number.* {text!r}"):
            positions_at_once(parallel, batch_of(model), device)


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
def test_training_keeps_to_the_limit_of_its_control_groups(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_control_groups(tmp_path, kind, "/pod/stage", {"/pod": 64 << 20})
    monkeypatch.setattr("lm.training.memory.memory_limits", lambda: memory_limits(tmp_path))
    model, parallel = toy_model(), Exact(1)
    parallel.distribute(model, AdamW())
    assert memory_bytes(torch.device("cpu")) == 64 << 20
    fits = positions_in(
        64 << 20, parallel.model, batch_of(model), parallel.bytes_a_weight, parallel.bytes_a_frozen_weight
    )
    assert positions_at_once(parallel, batch_of(model), torch.device("cpu")) == fits > 0
