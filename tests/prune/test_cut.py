"""Models of some layers, heads and channels: what is worth nothing goes without a trace, and scores by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.calibration import Batch, LayerInputs
from lm.config import ConfigError, methods_of
from lm.cutting import units
from lm.cutting.cut import kept_head_indices, shape_of, top_indices, with_units
from lm.cutting.units import Activation, Magnitude
from lm.feed_forwards import ReluSquared
from lm.mixers import Hyena, StridedBlocks, TTTLinear
from lm.model import Decoder
from tasks.prune import layers
from tasks.prune.layers import Influence, Shift
from tests.lm.models import toy_model

quick = settings(deadline=None, max_examples=15, derandomize=True)


def batches() -> list[Batch]:
    ids = torch.randint(5, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    real = torch.ones(3, 20, dtype=torch.bool)
    real[1, 12:] = False
    return [(ids[:2], real[:2]), (ids[2:], real[2:])]


def silent(done: int, total: int, unit: str) -> None:
    assert 0 < done <= total


@torch.no_grad()
def logits(model: Decoder) -> torch.Tensor:
    return model(batches()[0][0])


@torch.no_grad()
def idle_layer(model: Decoder, number: int) -> None:
    """Have a layer add nothing to the stream."""
    model.blocks[number].attention.output.weight.zero_()
    model.blocks[number].ffn.down.weight.zero_()


@pytest.mark.parametrize("method", methods_of(layers), ids=lambda method: method.__name__)
def test_a_layer_that_does_nothing_is_worth_nothing(method: type) -> None:
    model = toy_model(seed=3, layers=4)
    idle_layer(model, 2)
    with torch.no_grad():
        scores = method()(model, batches(), silent)
    assert scores.index(min(scores)) == 2 and scores[2] == pytest.approx(0, abs=1e-9)
    assert min(scores[n] for n in (0, 1, 3)) > 1e-6
    smaller = model.select_layers(top_indices(scores, 3))
    assert smaller.config.layers == 3
    torch.testing.assert_close(logits(smaller), logits(model), rtol=0, atol=1e-5)  # the same sums but for a zero


def test_the_shift_of_a_layer_by_hand() -> None:
    model = toy_model(seed=3, layers=3)
    with torch.no_grad():
        scores = Shift()(model, batches(), silent)
        other = model.select_layers([0, 2])
        moved = length = 0.0
        for ids, real in batches():
            whole, less = model.hidden(ids)[real].double(), other.hidden(ids)[real].double()
            moved, length = moved + (whole - less).square().sum(), length + whole.square().sum()
    assert scores[1] == pytest.approx(float(moved / length))


def test_influence_leaves_padding_out_and_its_hooks_behind_no_one() -> None:
    model = toy_model(seed=3, layers=2)
    with torch.no_grad():
        scores = Influence()(model, batches(), silent)
        (ids, real), second = batches()
        spoiled = ids.clone()
        spoiled[~real] = 7
        assert Influence()(model, [(spoiled, real), second], silent) == scores
    assert not any(block._forward_hooks for block in model.blocks)


SHAPES = {
    "grouped": {"heads": 4, "kv_heads": 2, "width": 32, "ffn_width": 48},
    "each its own": {"heads": 4, "kv_heads": 4, "width": 32, "ffn_width": 48},
    "one": {"heads": 4, "kv_heads": 1, "width": 32, "ffn_width": 48, "qkv_bias": True, "qk_norm": False},
    "wide heads": {"heads": 4, "kv_heads": 2, "width": 32, "head_width": 12, "ffn_width": 48},
    "two layers of a kind": {"heads": 4, "kv_heads": 2, "width": 32, "ffn_width": 48, "feed_forward": ReluSquared()},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", methods_of(units), ids=lambda method: method.__name__)
def test_units_that_nothing_reads_go_without_a_trace(shape: str, method: type) -> None:
    """Heads 1 and 2 and every third channel give nothing."""
    model = toy_model(seed=5, **SHAPES[shape])
    width, dead = model.config.head_dim, [1, 2]
    with torch.no_grad():
        for block in model.blocks:
            for head in dead:
                block.attention.output.weight[:, head * width : (head + 1) * width] = 0
                if model.config.kv_heads == model.config.heads:  # what gives nothing, not what is not read alone
                    block.attention.value.weight[head * width : (head + 1) * width] = 0
            block.ffn.down.weight[:, ::3] = 0
            block.ffn.up.weight[::3] = 0
        heads = 2
        if method is Activation and model.config.kv_heads < model.config.heads:
            heads = 0  # query heads that share values give what these are: none is idle
        smaller = with_units(model, heads, 32, method(), batches(), "prune")
    assert smaller.config.ffn_width == 32 and smaller.config.heads == (heads or 4)
    assert smaller.config.head_dim == width
    torch.testing.assert_close(logits(smaller), logits(model), rtol=0, atol=1e-5)


@quick
@given(st.permutations(range(8)), st.sampled_from([(8, 8, 3), (8, 2, 4), (8, 4, 4), (8, 1, 5)]))
def test_each_key_and_value_keeps_as_many_of_its_heads(order: list[int], shape: tuple[int, int, int]) -> None:
    heads, pairs, left = shape
    old = toy_model(heads=heads, kv_heads=pairs, width=64).config
    smaller = shape_of(old, left, 0, "prune")
    found = kept_head_indices([float(score) for score in order], old, smaller)
    assert len(found) == left and found == sorted(found)
    group = heads // pairs
    for number in range(pairs if pairs < heads else 1):
        some = range(number * group, (number + 1) * group) if pairs < heads else range(heads)
        mine = [head for head in found if head in some]
        assert len(mine) == (left // pairs if pairs < heads else left)
        assert min(order[head] for head in mine) >= max([order[head] for head in some if head not in mine], default=-1)


def test_scores_of_units_by_hand() -> None:
    weight, inputs = (
        torch.tensor([[3.0, 0.0, 1.0, 1.0], [4.0, 0.0, 1.0, 1.0]]),
        torch.tensor([[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]),
    )
    assert Magnitude()(weight, None, 2) == [5.0, 2.0] and Magnitude()(weight, None, 1) == pytest.approx(
        [5, 0, 2**0.5, 2**0.5]
    )
    assert Activation()(weight, LayerInputs(inputs), 2) == [2.5, 1.0]
    with pytest.raises(ValueError, match="needs the inputs"):
        Activation()(weight, None, 1)


def test_what_cannot_be_cut_is_said() -> None:
    other = toy_model()
    other.blocks[1].ffn = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"cannot be told apart: it has no blocks.1.ffn.down.weight"):
        with_units(other, 0, 8, Magnitude(), batches(), "prune")
    for mixer, weight in ((Hyena(), "taps"), (TTTLinear(), "first")):
        with pytest.raises(
            ConfigError, match=rf"^prune: heads of .* cannot be told apart in blocks.0.attention.{weight}"
        ):
            with_units(toy_model(mixer=mixer), 2, 0, Magnitude(), batches(), "prune")
        assert with_units(toy_model(mixer=mixer), 0, 8, Magnitude(), batches(), "prune").config.ffn_width == 8
    with pytest.raises(ConfigError, match=r"^prune: what a head of strided_blocks sees depends on its number"):
        with_units(toy_model(mixer=StridedBlocks()), 2, 0, Magnitude(), batches(), "prune")
    shape = toy_model(heads=4, kv_heads=2, width=32).config
    with pytest.raises(ConfigError, match=r"prune.heads: 3 is no multiple of the model's kv_heads, 2"):
        shape_of(shape, 3, 0, "prune")
    assert shape_of(shape, 2, 0, "prune").head_width == 8 and shape_of(shape, 4, 8, "prune").head_width == 0
    assert top_indices([1.0, 3.0, 3.0, 2.0], 2) == [1, 2] and top_indices([1.0, 1.0, 1.0], 2) == [0, 1]
