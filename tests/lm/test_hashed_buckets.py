"""Attention within buckets of a hash: the hash by hand, one bucket beside full attention, rows that go on from a state."""

import pytest
import torch

from lm.mixers import HashedBuckets
from lm.mixers.hashed_buckets import buckets_of
from lm.model import Cache
from tests.lm.made_parts import (
    CLOSE,
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    check_read_together,
    decided,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

MIXER = {"name": "hashed_buckets", "rotations": 2}


def test_a_hash_by_hand() -> None:
    """Planes along the axes: the number of the axis that a vector is largest along, and of another four where it points back."""
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0], [-3.0, 1.0], [1.0, -3.0], [6.0, 2.0]]).view(1, 5, 1, 2)
    assert buckets_of(x, torch.eye(2)).flatten().tolist() == [0, 1, 2, 3, 0]


def test_with_one_bucket_it_is_full_attention() -> None:
    bounds = torch.tensor([0, 7, 18, 36])
    hashed, full = decided({"mixer": MIXER}), decided({})
    assert hashed.state_dict().keys() == full.state_dict().keys()
    assert not torch.allclose(hashed(ids_of(2, 18), bounds=bounds), full(ids_of(2, 18), bounds=bounds), **CLOSE)
    for block in hashed.blocks:
        block.attention.planes_ER.zero_()
    torch.testing.assert_close(hashed(ids_of(2, 18), bounds=bounds), full(ids_of(2, 18), bounds=bounds), **CLOSE)


@torch.no_grad()
def test_a_document_falls_into_the_same_buckets_wherever_in_a_row_it_begins() -> None:
    model, ids = decided({"mixer": MIXER}), ids_of(1, 40)
    packed = model(ids, bounds=torch.tensor([0, 3, 21, 40]))
    for start, end in ((3, 21), (21, 40)):
        torch.testing.assert_close(packed[:, start:end], model(ids[:, start:end]), **CLOSE)


def test_all_models_hash_alike() -> None:
    """What a model was trained with is what one read from its folder has."""
    planes = [toy_model(seed=seed, mixer=MIXER).blocks[seed].attention.planes_ER for seed in (0, 1)]
    assert torch.equal(*planes) and planes[0].shape == (8, 2) and planes[0].abs().min() > 0
    assert not any("planes" in name for name in toy_model(mixer=MIXER).state_dict())


@pytest.mark.parametrize("kv_heads", [1, 4])
@torch.no_grad()
def test_a_long_row_step_by_step_is_what_it_is_at_once(kv_heads: int) -> None:
    model = decided({"mixer": MIXER, "kv_heads": kv_heads})
    cache = Cache(model.config, 2, 47)
    ids = ids_of(2, 5)
    model.hidden(ids, cache, counts_B=torch.tensor([5, 2]))
    read = [ids[0].tolist(), ids[1, :2].tolist()]
    for length in (1, 9, 1, 3, 1, 11):
        more = ids_of(2, length, seed=length)
        found = model(more, cache)
        for row in range(2):
            read[row] += more[row].tolist()
            torch.testing.assert_close(found[row], model(torch.tensor([read[row]]))[0, -length:], **CLOSE)


@torch.no_grad()
def test_rows_of_a_larger_state_begin_as_others() -> None:
    check_read_together(decided({"mixer": MIXER}), [5, 9, 1], 2, 5)


def test_a_gradient_stays_within_its_document() -> None:
    assert_gradients_stay_within_documents(MIXER)


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


def test_documents_compile_to_one_graph() -> None:
    model, bounds = toy_model(mixer=MIXER), torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


def test_flop_and_numbers_kept() -> None:
    """Four buckets of 101 / 2 keys on average; 4 and 2 heads of 8 by 2 rotations."""
    shape = toy_model(mixer=MIXER).config
    assert HashedBuckets(rotations=2).flops(shape, 100) == 12 * 4 * 8 * 50.5 / 4 + 2 * 6 * 8 * 2
    assert shape.state_numel(40) == 2 * 40 * 2 * (2 * 8 + 1)
