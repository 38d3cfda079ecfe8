"""A larger model that begins as a smaller one: the same function where that is promised, by hand, and refused where it is not
known what it would be."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.config import ConfigError, methods_of
from lm.growing.bert2bert import bert2bert
from lm.growing.bert2bert import layers_of as stacked_with_rest
from lm.growing.cloned import cloned
from lm.growing.lossless import layers_of, lossless
from lm.growing.stacked import order_of
from lm.growing.widths import in_turn, places_of, split_columns
from lm.model import Decoder
from tasks.pretrain import starts
from tasks.pretrain.starts import Bert2Bert, Cloned, Lossless, Stacked
from tasks.pretrain.starts.base import Grown
from tests.lm.made_parts import ids_of, stirred
from tests.lm.models import toy_model
from tests.neighbours import assert_all_differ, every_neighbour

METHODS: Any = [method for method in methods_of(starts) if issubclass(method, Grown)]
SLOT = "pretrain.model"
# sums of products of as many terms again, in another order, through layers of logits of the order of 1: relative to them
CLOSE = {"rtol": 0.0, "atol": 1e-5}
# Of a function that holds for every shape, or for one in two where a part is wrong
PROPERTY = settings(deadline=None, max_examples=50)


def small(**parts: Any) -> Decoder:
    """A model whose logits are of the order of 1, with nothing at its first value."""
    model = stirred(toy_model(seed=3, **{"width": 16, "heads": 2, "kv_heads": 1, "ffn_width": 12, **parts})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name) + weight.numel())
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    found = model(ids_of(2, 9))
    return found / found.abs().max()


def grown(model: Decoder, method: Any, seed: int = 0, **changes: Any) -> Decoder:
    return method.grow(model, model.config.model_copy(update=changes), seed)


@st.composite
def parts(draw: st.DrawFn) -> dict[str, Any]:
    """Parts and heads of a small model that grows in width."""
    groups = draw(st.integers(1, 2))
    found: dict[str, Any] = {
        "heads": groups * draw(st.integers(1, 2)),
        "kv_heads": groups,
        "head_width": draw(st.sampled_from([4, 6])),
        "width": draw(st.integers(5, 16)),
        "ffn_width": draw(st.integers(3, 12)),
        "layers": draw(st.integers(1, 3)),
        "norm": {"name": draw(st.sampled_from(["rms_norm", "layer_norm"]))},
        "feed_forward": {"name": draw(st.sampled_from(["swiglu", "relu_squared"]))},
        "qk_norm": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
        "tied": draw(st.booleans()),
    }
    if draw(st.booleans()):
        found["mixer"] = {"name": "sliding_window", "window": 3}
    return found


@PROPERTY
@given(parts(), st.data())
def test_a_cloned_model_is_the_smaller_ones_function(shape: dict[str, Any], data: st.DataObject) -> None:
    model, times = small(**shape), st.integers(1, 3)
    pairs = shape["kv_heads"] * data.draw(times)
    changes = {
        "width": shape["width"] * data.draw(times),
        "kv_heads": pairs,
        "heads": pairs * (shape["heads"] // shape["kv_heads"]) * data.draw(times),
        "ffn_width": shape["ffn_width"] * data.draw(st.integers(2, 3)),
        "context": 64,
    }
    made = grown(
        model, Cloned(snr_db=data.draw(st.sampled_from([None, 5.0, 20.0]))), data.draw(st.integers(0, 9)), **changes
    )
    assert all(getattr(made.config, name) == value for name, value in changes.items())
    torch.testing.assert_close(logits(made), logits(model), **CLOSE)


@PROPERTY
@given(parts(), st.data())
def test_a_lossless_model_is_the_smaller_ones_function(shape: dict[str, Any], data: st.DataObject) -> None:
    model, more = small(**shape), st.integers(0, 7)
    pairs = shape["kv_heads"] + data.draw(st.integers(0, 2))
    changes = {
        "width": shape["width"] + data.draw(more),
        "kv_heads": pairs,
        "heads": pairs * (shape["heads"] // shape["kv_heads"] + data.draw(st.integers(0, 1))),
        "ffn_width": shape["ffn_width"] + data.draw(more) + 1,
        "layers": shape["layers"] + data.draw(st.integers(0, shape["layers"])),
    }
    made = grown(model, Lossless(scale=data.draw(st.sampled_from([0.1, 1.0]))), data.draw(st.integers(0, 9)), **changes)
    torch.testing.assert_close(logits(made), logits(model), **CLOSE)


@PROPERTY
@given(parts(), st.data())
def test_neurons_that_bert2bert_has_again_share_what_they_give(shape: dict[str, Any], data: st.DataObject) -> None:
    """Its function is the smaller one's where the stream keeps its width and each layer its own weights."""
    model = small(**shape)
    pairs = shape["kv_heads"] + data.draw(st.integers(0, 2))
    heads = pairs * (shape["heads"] // shape["kv_heads"] + data.draw(st.integers(0, 1)))
    ffn_width, seed = shape["ffn_width"] + data.draw(st.integers(1, 7)), data.draw(st.integers(0, 9))
    made = grown(model, Bert2Bert(knowledge="own"), seed, heads=heads, kv_heads=pairs, ffn_width=ffn_width)
    torch.testing.assert_close(logits(made), logits(model), **CLOSE)


@PROPERTY
@given(parts(), st.integers(2, 4))
def test_a_stack_has_each_layer_so_often_and_one_layer_that_adds_nothing_shows_it(
    shape: dict[str, Any], times: int
) -> None:
    model, layers = small(**shape), shape["layers"]
    for order in ("whole", "interleaved"):
        made = grown(model, Stacked(order=order), layers=layers * times)
        for index, block in enumerate(made.blocks):
            place = index % layers if order == "whole" else index // times
            assert all(torch.equal(w, model.blocks[place].state_dict()[n]) for n, w in block.state_dict().items())
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.ffn.down.weight.zero_()
    assert torch.equal(logits(grown(model, Stacked(), layers=layers * times)), logits(model))


def test_orders_of_layers_by_hand() -> None:
    assert order_of(3, 6, "whole") == [0, 1, 2, 0, 1, 2] and order_of(3, 6, "interleaved") == [0, 0, 1, 1, 2, 2]
    assert layers_of(3, 5) == [(0, False), (1, False), (1, True), (2, False), (2, True)]
    assert stacked_with_rest(3, 8) == [0, 1, 2, 0, 1, 2, 1, 2] and stacked_with_rest(3, 3) == [0, 1, 2]


def test_columns_of_copies_by_hand() -> None:
    weight, places = torch.tensor([[6.0, 8.0]]), torch.tensor([0, 1, 0, -1, 0])
    assert split_columns(weight, places).tolist() == [[2, 8, 2, 0, 2]]
    # the three that copy the first are 1, 4 and 7, 6 too many: 2 less each; what copies nothing is as drawn
    assert split_columns(weight, places, torch.tensor([[1.0, 2, 4, 5, 7]])).tolist() == [[-1, 8, 2, 5, 5]]


def test_heads_are_copied_with_their_keys_by_hand() -> None:
    """Key heads 0 and 1, whose query heads are 0 1 and 2 3; six of three each."""
    model = small(heads=4, kv_heads=2, head_width=2)
    larger = model.config.model_copy(update={"heads": 9, "kv_heads": 3})
    found = places_of(model.config, larger, in_turn)
    assert found.pairs.tolist() == [0, 1, 2, 3, 0, 1]
    assert [place // 2 for place in found.queries.tolist()[::2]] == [0, 1, 0, 2, 3, 2, 0, 1, 0]


def test_cloned_by_hand() -> None:
    model = small(layers=1)
    made = grown(model, Cloned(), width=32, heads=4, kv_heads=2, ffn_width=12)
    old, new = model.blocks[0], made.blocks[0]
    key = old.attention.key.weight
    assert torch.equal(new.attention.key.weight, torch.cat((torch.cat((key, key)), torch.cat((key, key))), 1) / 2)
    down = old.ffn.down.weight  # the channels are as many as they were
    assert torch.equal(new.ffn.down.weight, torch.cat((down, down)))
    assert torch.equal(made.embedding.weight, model.embedding.weight.repeat(1, 2))
    assert torch.equal(made.norm.weight, model.norm.weight.repeat(2) / 2)  # the head is the embedding
    assert torch.equal(new.ffn_norm.weight, old.ffn_norm.weight.repeat(2))


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_of_clones_by_hand(snr_db: float) -> None:
    """Three copies of the inputs: of the first and the second the noise is each other's with its sign turned, the third has
    none; its power is that of the block by the ratio; copies of outputs have noise of their own."""
    model = small(layers=1)
    plain, noisy = (
        grown(model, Cloned(snr_db=ratio), width=48, heads=4, kv_heads=2, ffn_width=12, head_width=8)
        for ratio in (None, snr_db)
    )
    weights = [made.blocks[0].attention.key.weight.detach() for made in (plain, noisy)]
    noise = (weights[1] - weights[0]).reshape(2, 8, 3, 16)
    torch.testing.assert_close(noise[:, :, 0], -noise[:, :, 1])
    assert float(noise[:, :, 2].abs().max()) < 1e-7
    block = weights[0][:8, :16]
    for row in range(2):
        ratio = float(block.square().mean() / noise[row, :, 0].square().mean())
        assert 10 * math.log10(ratio) == pytest.approx(snr_db, abs=1e-3)
    assert not torch.allclose(noise[0], noise[1])
    assert torch.equal(plain.embedding.weight, noisy.embedding.weight)


def test_the_stream_of_a_lossless_model_by_hand() -> None:
    """Width 16 to 40: twice the 16, and 8 more, which nothing writes to. The stream is larger by sqrt(40 / 32), so that its mean
    square is the smaller one's."""
    model, factor = small(layers=1, tied=False), math.sqrt(40 / 32)
    made = grown(model, Lossless(), width=40, head_width=8)
    table, down = made.embedding.weight, made.blocks[0].ffn.down.weight
    for wide, narrow in ((table.T, model.embedding.weight.T), (down, model.blocks[0].ffn.down.weight)):
        torch.testing.assert_close(wide[:16], narrow * factor)
        assert torch.equal(wide[16:32], wide[:16]) and not wide[32:].any()
    torch.testing.assert_close(made.norm.weight[:32], model.norm.weight.repeat(2) / factor)
    assert torch.equal(made.norm.weight[32:], torch.ones(8))
    up = made.blocks[0].ffn.up.weight
    torch.testing.assert_close(up[:, :16] + up[:, 16:32], model.blocks[0].ffn.up.weight)
    assert not torch.allclose(up[:, :16], up[:, 16:32]) and bool(up[:, 32:].all())
    fresh = Decoder(made.config, 0).blocks[0].ffn.up.weight
    torch.testing.assert_close(up[:, :16] - up[:, 16:32], fresh[:, :16] - fresh[:, 16:32])


def test_what_copies_nothing_is_the_mean_under_layer_norm() -> None:
    model = small(layers=1, norm={"name": "layer_norm"})
    made = grown(model, Lossless(), width=20, head_width=8)
    factor = math.sqrt(20 / 16)
    torch.testing.assert_close(
        made.embedding.weight[:, 16:], model.embedding.weight.mean(1, keepdim=True).expand(-1, 4) * factor
    )
    assert not made.norm.bias[16:].any() and not made.blocks[0].attention_norm.bias[16:].any()


def test_new_layers_of_a_lossless_model_add_nothing_and_learn() -> None:
    model = small(layers=2)
    made = grown(model, Lossless(), layers=3)
    assert not made.blocks[2].attention.output.weight.any() and not made.blocks[2].ffn.down.weight.any()
    assert torch.equal(made.blocks[2].ffn.up.weight, made.blocks[1].ffn.up.weight)
    made(ids_of(2, 9)).square().mean().backward()
    assert bool(made.blocks[2].ffn.down.weight.grad.any())


def test_copies_of_a_lossless_model_part_and_clones_without_noise_do_not() -> None:
    for method, parts_ in ((Lossless(), True), (Cloned(), False), (Cloned(snr_db=10.0), True)):
        made = grown(small(), method, width=32, heads=4, kv_heads=2, ffn_width=24)
        made(ids_of(2, 9)).square().mean().backward()
        gate = made.blocks[0].ffn.gate.weight.grad
        scale = float(gate.abs().max())
        assert torch.allclose(gate[:12, :16], gate[12:, :16], rtol=0, atol=1e-5 * scale) is not parts_


def test_advanced_knowledge_is_the_next_layers_by_hand() -> None:
    model = small(layers=2)
    own, advanced = (
        grown(model, Bert2Bert(knowledge=kind), ffn_width=15, heads=3, head_width=8) for kind in ("own", "advanced")
    )
    for layer, next_layer in ((0, 1), (1, 1)):
        old, later = model.blocks[layer].ffn.up.weight, model.blocks[next_layer].ffn.up.weight
        for made, source in ((own, old), (advanced, later)):
            up = made.blocks[layer].ffn.up.weight
            assert torch.equal(up[:12], old)
            assert all(any(torch.equal(row, other) for other in source) for row in up[12:])
    wide = grown(model, Bert2Bert(knowledge="advanced"), width=20, head_width=8)
    table = wide.embedding.weight
    places = [next(n for n in range(16) if torch.equal(model.embedding.weight[:, n], table[:, m])) for m in range(20)]
    assert places[:16] == list(range(16))
    counts = torch.tensor([places.count(place) for place in places])
    gate = model.blocks[1].ffn.gate.weight
    torch.testing.assert_close(wide.blocks[1].ffn.gate.weight, gate[:, places] / counts)
    torch.testing.assert_close(wide.norm.weight, model.norm.weight[places] / counts)  # the head is the embedding
    output = wide.blocks[0].attention.output.weight
    assert torch.equal(output[:16], model.blocks[0].attention.output.weight)
    assert torch.equal(output[16:], model.blocks[1].attention.output.weight[places[16:]])


def bytes_of(model: Decoder) -> bytes:
    return b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())


def test_methods_and_their_parameters_differ_in_bytes() -> None:
    model = small(layers=2)
    sizes = {"width": 32, "heads": 4, "kv_heads": 2, "ffn_width": 24}
    made = {
        "stacked": bytes_of(grown(model, Stacked(), layers=4)),
        **{type(m).__name__: bytes_of(grown(model, m, **sizes)) for m in (Cloned(), Lossless(), Bert2Bert())},
    }
    assert len(set(made.values())) == 4

    def bytes_with(changes: dict[str, Any]) -> bytes:
        method = changes.get("method", Stacked())
        return type(method).__name__.encode() + bytes_of(
            grown(model, method, **({"layers": 4} if isinstance(method, Stacked) else sizes))
        )

    assert_all_differ(bytes_with, [[{"method": other} for other in few] for few in every_neighbour(tuple(METHODS))])


@pytest.mark.parametrize("method", [Cloned(snr_db=10.0), Lossless(), Bert2Bert()], ids=lambda method: method.name)
def test_the_seed_decides_what_is_drawn(method: Any) -> None:
    sizes = {"width": 32, "heads": 4, "kv_heads": 2, "ffn_width": 24}
    first, again, other = (bytes_of(grown(small(), method, seed, **sizes)) for seed in (0, 0, 1))
    assert first == again != other


ALL = {"width": 32, "heads": 4, "kv_heads": 2, "ffn_width": 24}
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (Stacked(), {"layers": 3}, "pretrain.model.layers: 3 is not two or more times the smaller model's 2"),
    (Stacked(), {"layers": 2}, "pretrain.model.layers: 2 is not two"),
    (Stacked(), {"layers": 4, "ffn_width": 24}, "pretrain.model.ffn_width: 24, and this start keeps .* 12"),
    (Cloned(), {**ALL, "layers": 4}, "pretrain.model.layers: 4, and this start keeps"),
    (
        Cloned(),
        {**ALL, "width": 40, "head_width": 8},
        "pretrain.model: 40 width, no multiple of the smaller model's 16",
    ),
    (Cloned(), {"width": 16}, "pretrain.model: no larger than the smaller model in any of width"),
    (Lossless(), {"ffn_width": 11}, "pretrain.model: 11 ffn_width, less than the smaller model's 12"),
    (Lossless(), {"layers": 5}, "pretrain.model.layers: 5 is not between the smaller model's 2 and twice as many"),
    (Lossless(), {"heads": 2, "kv_heads": 2}, "1 heads for each key/value head, less than the smaller model's 2"),
    (Bert2Bert(), {"layers": 1}, "pretrain.model.layers: 1 is less"),
    (Bert2Bert(), {}, "pretrain.model: no larger"),
    *(
        (method(), {**ALL, "qk_norm": False}, "pretrain.model.qk_norm: False, and this start keeps")
        for method in METHODS
    ),
    *(
        (method(), {**ALL, "heads": 2}, "pretrain.model.(head_width: heads are 16 wide|width: 32)")
        for method in METHODS
    ),
]


@pytest.mark.parametrize(("method", "changes", "said"), WRONG)
def test_a_shape_that_does_not_fit_is_one_line(method: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        grown(small(), method, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"feed_forward": {"name": "experts", "experts": 3, "active": 2, "width": 8}},
        {"mixer": {"name": "minimal_rnn"}},
        {"mixer": {"name": "strided_blocks"}},
        {"embeddings": [{"name": "x0"}]},
        {"embeddings": [{"name": "smear"}]},
    ],
    ids=str,
)
def test_parts_that_nobody_knows_how_to_widen_are_refused_and_stacked(other: dict[str, Any]) -> None:
    model = small(**other)
    for method in (Cloned(), Lossless(), Bert2Bert()):
        with pytest.raises(ConfigError, match=r"pretrain\.model: it is not known what .* would be in a wider model"):
            grown(model, method, **ALL)
    assert grown(model, Stacked(), layers=4).config.layers == 4


def test_a_pattern_must_come_out_the_same_in_the_larger_model() -> None:
    pattern = [{}, {"mixer": {"name": "sliding_window", "window": 3}}]
    model = small(layers=2, pattern=pattern)
    made = grown(model, Stacked(), layers=4)
    assert [made.config.layer(n).mixer.name for n in range(4)] == ["attention", "sliding_window"] * 2
    with pytest.raises(ConfigError, match="layer 1 would begin as the smaller model's layer 0, whose mixer"):
        grown(model, Stacked(order="interleaved"), layers=4)


@pytest.mark.parametrize("names", [("swiglu", "relu_squared"), ("relu_squared", "swiglu")])
@pytest.mark.parametrize("changes", [{"ffn_width": 24}, {"layers": 4}])
def test_neurons_of_a_layer_of_another_kind_are_refused(names: tuple[str, str], changes: dict[str, int]) -> None:
    """Their weights are there in one direction and not in the other, and are those of another function in either."""
    model = small(layers=2, pattern=[{"feed_forward": {"name": name}} for name in names])
    larger = model.config.model_copy(update=changes)
    for call in (Bert2Bert().check, lambda *_: Bert2Bert().grow(model, larger, 0)):
        with pytest.raises(
            ConfigError, match=f"layer 0 is {names[0]} and the next {names[1]}.*start.knowledge: own"
        ) as caught:
            call(model.config, larger)
        assert "\n" not in str(caught.value)
    made = grown(model, Bert2Bert(knowledge="own"), **changes)
    assert made.config.layers == larger.layers


def test_layers_that_differ_in_what_they_look_at_alone_lend_each_other_neurons() -> None:
    model = small(layers=2, pattern=[{}, {"mixer": {"name": "sliding_window", "window": 3}}])
    made = grown(model, Bert2Bert(), ffn_width=15)
    up, later = made.blocks[0].ffn.up.weight, model.blocks[1].ffn.up.weight
    assert all(any(torch.equal(row, other) for other in later) for row in up[12:])


def test_functions_leave_the_smaller_model_alone() -> None:
    model = small()
    kept = bytes_of(model)
    shape = model.config.model_copy(update=ALL)
    made = [
        cloned(model, shape, 10.0, 0, SLOT),
        lossless(model, shape, 1.0, 0, SLOT),
        bert2bert(model, shape, "own", 0, SLOT),
    ]
    with torch.no_grad():
        for one in made:
            for weight in one.parameters():
                weight.zero_()
    assert bytes_of(model) == kept
