"""Which matrices lose weights, and which weights go where all matrices are compared with one another."""

import pytest
import torch
from torch import Tensor

from lm.calibration import Batch
from lm.embeddings import Bigram, Value
from lm.model import Decoder
from tasks.prune.nats import nats_of
from tasks.prune.sparse import SHARES, emptied_together, essential_sparsity, matrices_of, prune_matrices
from tasks.prune.weights import Magnitude, SparseGpt, Wanda
from tests.lm.models import toy_model

TABLES = [Value(), Bigram(rows=32)]


def batches() -> list[Batch]:
    ids = torch.randint(5, 261, (3, 20), generator=torch.Generator().manual_seed(0))
    return [(ids, torch.ones_like(ids, dtype=torch.bool))]


def quiet(*told: object) -> None:
    """Say nothing of the progress."""


def uneven() -> Decoder:
    """A matrix of each block is far smaller than the others, and one far larger."""
    model = toy_model(seed=3)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.value.weight.mul_(1e-3)
            block.ffn.up.weight.mul_(1e3)
    return model


def zeros_in(model: Decoder) -> dict[str, float]:
    return {name: float((weight == 0).double().mean()) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_smallest_of_all_matrices_go_wherever_they_are(share: float) -> None:
    model = uneven()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    emptied_together(model, share)
    names = matrices_of(model)
    sizes = torch.cat([before[name].abs().flatten() for name in names])
    threshold = sizes.sort().values[round(share * len(sizes))]
    for name, weight in model.state_dict().items():
        wanted = before[name].masked_fill(before[name].abs() < threshold, 0) if name in names else before[name]
        assert torch.equal(weight, wanted), name


def test_a_share_is_not_that_of_each_matrix() -> None:
    model = uneven()
    emptied_together(model, 0.5)
    found = zeros_in(model)
    assert found["blocks.0.attention.value.weight"] == found["blocks.1.attention.value.weight"] == 1
    # a thousandth of normal draws is within a thousandth of 0
    assert max(found["blocks.0.ffn.up.weight"], found["blocks.1.ffn.up.weight"]) < 0.01


@torch.no_grad()
def test_the_knee_is_found_by_one_threshold() -> None:
    model, rows = uneven(), [0.0, *SHARES]
    told, knee = essential_sparsity(model, batches(), quiet)
    wanted = []
    for share in rows:
        other = uneven()
        if share:
            emptied_together(other, share)
        wanted.append(nats_of(other, batches()))
    assert [row["nats"] for row in told] == wanted and knee in rows
    prune_matrices(model, Magnitude(share=0.5), batches(), quiet)
    assert nats_of(model, batches()) != wanted[5]


@pytest.mark.parametrize("way", [Magnitude(), Wanda(), SparseGpt()], ids=lambda way: way.name)
def test_what_is_looked_up_stays_whole(way: object) -> None:
    model = toy_model(seed=3, embeddings=TABLES)
    assert "blocks.0.embeddings.0.table.weight" in model.state_dict()
    prune_matrices(model, way, batches(), quiet)
    found, matrices = zeros_in(model), matrices_of(model)
    assert all(found[name] > 0.4 for name in matrices)
    assert [name for name, share in found.items() if share and name not in matrices and "share" not in name] == []


def test_of_equals_the_first_go() -> None:
    model = toy_model(layers=1)
    with torch.no_grad():
        for name in matrices_of(model):
            model.get_parameter(name).fill_(1.0)
    emptied_together(model, 0.25)
    every: Tensor = torch.cat([model.get_parameter(name).flatten() for name in matrices_of(model)])
    gone = round(0.25 * len(every))
    assert not every[:gone].any() and every[gone:].all()
