"""S2-Attention: which blocks each head sees, that heads together see all, and what a state forgets."""

import pytest
import torch

from lm.mixers import StridedBlocks
from lm.mixers.strided_blocks import kept_blocks, shards_of
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

MIXER = {"name": "strided_blocks", "block": 2}


def test_what_heads_see_by_hand() -> None:
    """Two heads, every other block each, and a band of two."""
    kept = kept_blocks(shards_of(2, 2), 2, 2, 5).int()
    assert kept[0].tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 1]]
    assert kept[1].tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 1]]


@pytest.mark.parametrize(("heads", "stride", "local"), [(4, 4, 1), (5, 3, 1), (8, 2, 3), (6, 6, 2)])
def test_heads_together_see_every_block_and_none_alone_does(heads: int, stride: int, local: int) -> None:
    kept_HCC = kept_blocks(shards_of(heads, stride), stride, local, 24)
    assert torch.equal(kept_HCC.any(0), torch.ones(24, 24, dtype=torch.bool).tril())
    behind = (torch.arange(24)[:, None] - torch.arange(24)) >= local
    for kept_CC in kept_HCC:
        assert int((kept_CC & behind).sum()) < int(behind.sum()) * 1.3 / stride


def test_with_a_band_as_long_as_the_row_it_is_full_attention() -> None:
    full = decided({})
    wide = decided({"mixer": {**MIXER, "local": 9}})
    assert wide.state_dict().keys() == full.state_dict().keys()
    bounds = torch.tensor([0, 7, 18, 36])
    torch.testing.assert_close(wide(ids_of(2, 18), bounds=bounds), full(ids_of(2, 18), bounds=bounds), **CLOSE)
    assert not torch.allclose(decided({"mixer": MIXER})(ids_of(2, 18)), full(ids_of(2, 18)), **CLOSE)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_a_long_row_step_by_step_is_what_it_is_at_once(kv_heads: int) -> None:
    """Rows of a state many times as long as its ring, of other lengths, by one token and by more than a ring has."""
    model = decided({"mixer": {**MIXER, "local": 2}, "kv_heads": kv_heads})
    ids, cache = ids_of(2, 47), Cache(model.config, 2, 47)
    model.hidden(ids[:, :5], cache, counts_B=torch.tensor([5, 2]))
    cache_ids = [ids[0, :5].tolist(), ids[1, :2].tolist()]
    for length in (1, 9, 1, 3, 1, 1, 11, 2):
        more = ids_of(2, length, seed=length)
        found = model(more, cache)
        for row in range(2):
            cache_ids[row] += more[row].tolist()
            wanted = model(torch.tensor([cache_ids[row]]))[0, -length:]
            torch.testing.assert_close(found[row], wanted, **CLOSE)


def test_a_state_keeps_the_band_and_its_shards_alone() -> None:
    """Blocks of 2, one of 4 each: of 40 tokens a key head of one query head keeps 2 and the blocks of its own of 38, 5; that of
    two query heads 10; one of all four all."""
    for kv_heads, own in ((4, 5), (2, 10), (1, 20)):
        model = toy_model(mixer=MIXER, kv_heads=kv_heads)
        slots = Cache(model.config, 3, 40).states[0].kept.keys_BKCE.shape[2]
        assert slots == 2 + own * 2
        assert model.config.state_numel(40) == 2 * 2 * 8 * kv_heads * (2 + 38 / 4 * 4 / kv_heads)
        assert model.config.state_numel(2) == toy_model(kv_heads=kv_heads).config.state_numel(2)


def test_flop_are_those_of_the_keys_that_heads_see() -> None:
    shape = toy_model(mixer=MIXER).config
    for mixer, length in ((StridedBlocks(block=4, local=2), 400), (StridedBlocks(block=8, stride=2), 256)):
        stride = mixer.stride or 4
        kept = kept_blocks(shards_of(4, stride), stride, mixer.local, length // mixer.block)
        seen = kept.repeat_interleave(mixer.block, 1).repeat_interleave(mixer.block, 2).tril().sum() / (4 * length)
        assert mixer.flops(shape, length) == pytest.approx(12 * 4 * 8 * float(seen), rel=0.03)
    whole = StridedBlocks(local=9)
    assert whole.flops(shape, 48) == 12 * 4 * 8 * 24.5


@pytest.mark.parametrize("stride", [5, 9])
def test_a_stride_that_heads_cannot_share_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"4 heads cannot see one block in {stride} each and all together"):
        toy_model(mixer={**MIXER, "stride": stride})
    with pytest.raises(ValueError, match="1 heads cannot see one block in 1"):
        toy_model(mixer=MIXER, heads=1, kv_heads=1)
    with pytest.raises(ValueError, match="causal: false is for attention"):
        toy_model(mixer=MIXER, causal=False)


@torch.no_grad()
def test_rows_of_a_larger_state_begin_as_others() -> None:
    check_read_together(decided({"mixer": MIXER}), [5, 9, 1], 2, 5)


def test_a_gradient_stays_within_its_document() -> None:
    assert_gradients_stay_within_documents({**MIXER, "local": 4})


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


def test_documents_compile_to_one_graph() -> None:
    model, bounds = toy_model(mixer=MIXER), torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1
