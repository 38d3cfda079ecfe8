"""What every mixer, feed-forward layer and norm must be, whichever there are: a new file in a room is held to it by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.checkpoint import load_model, save_model
from lm.config import Config
from lm.feed_forwards import SwiGLU
from lm.hugging_face.config import to_theirs
from lm.hugging_face.load import their_name
from lm.model import Cache, Decoder, ModelConfig
from lm.parts import with_loss
from lm.sampler import generate
from lm.shape import Shape
from lm.training.batch import Batch, Metrics, backward, with_auxiliary
from lm.training.flops import flops_per_token
from tests.lm.made_parts import (
    CLOSE,
    FEED_FORWARDS,
    MIXERS,
    NORMS,
    TOKENS,
    check_read_together,
    decided,
    each_once,
    ids_of,
    shapes,
    with_small_numbers,
)
from tests.lm.models import plain_and_compiled, toy_model, toy_tokenizer

PROPERTY = settings(deadline=None, max_examples=25)


@PROPERTY
@given(shapes(), st.lists(st.integers(1, 6), min_size=1, max_size=6))
@torch.no_grad()
def test_step_by_step_gives_what_all_at_once_gives(shape: dict[str, Any], pieces: list[int]) -> None:
    model, ids = decided(shape), ids_of(2, sum(pieces))
    cache, done, found = Cache(model.config, 2, sum(pieces)), 0, []
    for piece in pieces:
        found.append(model(ids[:, done : done + piece], cache))
        done += piece
    torch.testing.assert_close(torch.cat(found, 1), model(ids), **CLOSE)


@PROPERTY
@given(shapes(), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 4), st.integers(1, 5))
@torch.no_grad()
def test_padding_is_not_kept_and_rows_begin_as_others(
    shape: dict[str, Any], counts: list[int], padding: int, following: int
) -> None:
    check_read_together(decided(shape), counts, padding, following)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer.__name__)
@torch.no_grad()
def test_every_mixer_sees_what_it_may_and_keeps_what_it_has_seen(mixer: type[Config], number: int) -> None:
    """Of each by itself: what is drawn holds now one and then another, and a state that kept padding went unseen."""
    model, ids = decided({"mixer": with_small_numbers(mixer, number).model_dump()}), ids_of(2, 9)
    cache = Cache(model.config, 2, 9)
    found = torch.cat([model(piece, cache) for piece in ids.split([4, 1, 1, 3], 1)], 1)
    torch.testing.assert_close(found, model(ids), **CLOSE)
    for counts, padding in (([5, 9, 1], 4), ([1, 2], 3), ([7, 7], 0)):
        check_read_together(model, counts, padding, 5)
    for place in (0, 1, 8, TOKENS - 1):
        check_sees_none_after(model, place)
    check_documents_apart(model, {1, 5, 6, TOKENS + 7})


@settings(deadline=None, max_examples=10)
@given(shapes(), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([1, 3, 8]))
@torch.no_grad()
def test_the_sampler_writes_what_whole_passes_would(shape: dict[str, Any], lengths: list[int], rows: int) -> None:
    """Each greedy token is the likeliest after all before it, or as likely as rounding can tell."""
    model = decided(shape)
    prompts = [ids_of(1, length, seed=length)[0].tolist() for length in lengths]
    for prompt, answer in zip(prompts, generate(model, prompts, 6, 0.0, 5, 0, rows), strict=True):
        whole = [*prompt, *answer.ids]
        logits = model(torch.tensor([whole]))[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        torch.testing.assert_close(chosen, logits.max(1).values, **CLOSE)


@PROPERTY
@given(shapes(), st.integers(0, TOKENS - 1))
@torch.no_grad()
def test_no_token_sees_one_after_it(shape: dict[str, Any], place: int) -> None:
    check_sees_none_after(decided(shape), place)


def check_sees_none_after(model: Decoder, place: int) -> None:
    """Another token changes what is predicted from it on, and nothing before."""
    ids = ids_of(1, TOKENS)
    changed = ids.clone()
    changed[0, place] = (ids[0, place] + 1) % 261
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :place], before[:, :place], **CLOSE)
    assert not torch.allclose(after[:, place], before[:, place], **CLOSE)


@PROPERTY
@given(shapes(), st.sets(st.integers(1, 2 * TOKENS - 1), max_size=5))
@torch.no_grad()
def test_no_document_sees_another(shape: dict[str, Any], edges: set[int]) -> None:
    check_documents_apart(decided(shape), edges)


def check_documents_apart(model: Decoder, edges: set[int]) -> None:
    """Documents that are cut at these places out of two rows are predicted as each alone."""
    ids = ids_of(2, TOKENS)
    bounds = sorted({0, TOKENS, 2 * TOKENS} | edges)
    packed = model(ids, bounds=torch.tensor(bounds)).flatten(0, 1)
    for start, end in zip(bounds, bounds[1:], strict=False):
        torch.testing.assert_close(packed[start:end], model(ids.flatten()[None, start:end])[0], **CLOSE)


@PROPERTY
@given(shapes(), st.integers(1, 64))
def test_what_parts_say_of_their_work_is_possible(shape: dict[str, Any], length: int) -> None:
    model = toy_model(**shape)
    for index in range(model.config.layers):
        layer = model.config.layer(index)
        for part, module in (
            (layer.mixer, model.blocks[index].attention),
            (layer.feed_forward, model.blocks[index].ffn),
        ):
            products = sum(child.weight.numel() for child in module.modules() if isinstance(child, torch.nn.Linear))
            assert 0 <= part.unused_weights(model.config) <= products and part.flops(model.config, length) >= 0
            written = [module.get_submodule(name) for name in part.into_stream]
            assert written and all(layer.weight.shape[0] == model.config.width for layer in written)
    assert 0 < model.num_active() <= model.num_parameters()
    assert 6 * model.head_weight.numel() < flops_per_token(model, length) <= flops_per_token(model, length + 1)
    assert 0 < model.config.state_numel(1) <= model.config.state_numel(length)


@PROPERTY
@given(shapes())
@torch.no_grad()
def test_nothing_comes_into_the_stream_past_what_parts_say(shape: dict[str, Any]) -> None:
    """Once those layers give zeros, no other weight of a block matters."""
    model, ids, written = decided(shape), ids_of(2, TOKENS), set[Tensor]()
    for index, block in enumerate(model.blocks):
        layer = model.config.layer(index)
        for part, module in ((layer.mixer, block.attention), (layer.feed_forward, block.ffn)):
            written |= {weight for name in part.into_stream for weight in module.get_submodule(name).parameters()}
    before = model(ids)
    for weight in written:
        weight.zero_()
    without = model(ids)
    assert not torch.allclose(without, before, **CLOSE)
    beside = {w for block in model.blocks if block.embeddings is not None for w in block.embeddings.parameters()}
    for weight in {*model.blocks.parameters()} - written - beside:
        weight.add_(0.5)
    assert torch.equal(model(ids), without)


@PROPERTY
@given(shapes())
def test_the_first_weights_follow_from_the_seed_and_fit_any_device(shape: dict[str, Any]) -> None:
    first, second = toy_model(seed=5, **shape).state_dict(), toy_model(seed=5, **shape).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.device("meta"):
        assert {n: w.shape for n, w in toy_model(**shape).state_dict().items()} == {
            n: w.shape for n, w in first.items()
        }


@settings(deadline=None, max_examples=10)
@given(shapes())
@torch.no_grad()
def test_a_saved_model_is_the_same(tmp_path_factory: pytest.TempPathFactory, shape: dict[str, Any]) -> None:
    folder, model = tmp_path_factory.mktemp("model"), decided(shape)
    save_model(folder, model, toy_tokenizer())
    again, _ = load_model(folder)
    assert again.config == model.config and torch.equal(again(ids_of(1, 9)), model(ids_of(1, 9)))


@PROPERTY
@given(shapes())
def test_a_model_has_names_at_hugging_face_or_one_line_says_what_has_none(shape: dict[str, Any]) -> None:
    model, reason = toy_model(**shape), ""
    try:
        to_theirs(model.config)
    except ValueError as error:
        reason = str(error)
    if reason:
        assert "\n" not in reason and len(reason) > 20
    else:
        names = [their_name(name, model.config) for name in model.state_dict()]
        assert len(set(names)) == len(names)


# each method at least once: what dynamo traces is a part's own code
@pytest.mark.parametrize(("mixer", "feed_forward", "norm"), each_once(MIXERS, FEED_FORWARDS, NORMS))
def test_compiled_blocks_are_one_graph_with_the_same_gradients(
    mixer: type[Config], feed_forward: type[Config], norm: type[Config]
) -> None:
    parts = {"mixer": mixer(), "feed_forward": feed_forward(), "norm": norm()}
    model = toy_model(**{name: part.model_dump() for name, part in parts.items()})

    def work() -> None:
        loss = model(ids_of(2, 12)).square().sum()
        added = model.auxiliary_loss()
        (loss if added is None else loss + added).backward()

    assert plain_and_compiled(model, work) == 1


class Weighed(torch.nn.Module):
    """A feed-forward layer that wants its result to be small."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.inner(x)
        return y, 0.1 * y.square().mean()


class WithLoss(SwiGLU):
    """SwiGLU that gives (result, loss) whether it trains or not."""

    def build(self, shape: Shape) -> torch.nn.Module:
        return Weighed(super().build(shape))


@pytest.mark.parametrize("method", [*FEED_FORWARDS, WithLoss])
@torch.no_grad()
def test_a_feed_forward_layer_sees_each_token_by_itself(method: type[Config]) -> None:
    part = method().build(toy_model().config)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([4, 2, 8, 0, 1, 3, 7, 6, 5])
    (other, _), (y, _) = with_loss(part(x[:, order])), with_loss(part(x))
    torch.testing.assert_close(other, y[:, order], **CLOSE)
    assert y.std() > 0.01


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(NORMS), st.floats(0.01, 100), st.integers(0, 9))
@torch.no_grad()
def test_a_norm_adds_and_forgets_the_scale(method: type[Any], scale: float, seed: int) -> None:
    norm = method().build(32, 1e-12)
    generator = torch.Generator().manual_seed(seed)
    x, more = (torch.randn(2, 5, 32, generator=generator) for _ in range(2))
    total, normed = norm(x, more)
    assert torch.equal(total, x + more) and torch.equal(norm(total)[1], normed) and torch.equal(norm(total)[0], total)
    torch.testing.assert_close(norm(scale * total)[1], normed, rtol=1e-4, atol=1e-4)
    # at its first weights
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(2, 5), rtol=1e-3, atol=0)


@torch.no_grad()
def test_layers_of_a_pattern_are_those_of_a_smaller_model() -> None:
    """As a student takes them of its teacher."""
    pattern = [{"mixer": {"name": "sliding_window", "window": 3}}, {}, {"feed_forward": {"name": "relu_squared"}}]
    model = decided({"layers": 5, "pattern": pattern})
    assert [model.config.layer(index).mixer.name for index in range(5)] == [
        "sliding_window", "attention", "attention", "sliding_window", "attention",
    ]  # fmt: skip
    smaller = Decoder(model.config.select_layers([0, 2, 4]))
    kept = [smaller.config.layer(index) for index in range(3)]
    assert kept == [model.config.layer(index) for index in (0, 2, 4)]
    for mine, theirs in enumerate((0, 2, 4)):
        smaller.blocks[mine].load_state_dict(model.blocks[theirs].state_dict())


class Idle(SwiGLU):
    """A feed-forward layer of which a token leaves out 100 weights, as of experts that it does not visit."""

    def unused_weights(self, shape: Shape) -> int:
        return 100


def test_weights_that_a_token_leaves_out_are_not_active_and_cost_nothing() -> None:
    whole = toy_model(layers=3)
    model = Decoder(whole.config.model_copy(update={"feed_forward": Idle()}))
    assert whole.num_active() == whole.num_parameters() == model.num_parameters() == model.num_active() + 300
    assert flops_per_token(model, 12) == flops_per_token(whole, 12) - 6 * 300


def test_a_model_of_the_default_parts_is_described_without_them(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model(), toy_tokenizer())
    left_out = ModelConfig.model_fields.keys() - toy_model().config.described().keys()
    assert left_out == {"mixer", "feed_forward", "norm", "embeddings", "pattern", "causal", "logit_softcap"}
    assert "mixer" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("recompute", [False, True])
def test_what_a_part_adds_to_the_loss_is_learned_from(recompute: bool) -> None:
    model = toy_model(seed=1)
    ids = ids_of(4, TOKENS)

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        return model(ids[rows]).square().mean() * ((rows.stop - rows.start) / 4), {}

    plain, _ = backward(with_auxiliary(Batch(4, TOKENS, 72, loss), model), 1000)
    before = model.blocks[1].ffn.down.weight.grad.clone()
    model.blocks[1].ffn = Weighed(model.blocks[1].ffn)
    model.recompute = recompute
    found = []
    for positions in (1000, TOKENS):
        model.zero_grad()
        added, metrics = backward(with_auxiliary(Batch(4, TOKENS, 72, loss), model), positions)
        found.append(model.blocks[1].ffn.inner.down.weight.grad.clone())
        torch.testing.assert_close(added, plain + metrics["auxiliary_loss"])
        assert metrics["auxiliary_loss"] > 0
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], before)
    with torch.no_grad():
        model(ids)
    model.eval()(ids)
    assert model.auxiliary_loss() is None


def test_a_window_by_hand() -> None:
    """Keys and queries of zeros: each token gets the mean of the values in its window."""
    model = toy_model(mixer={"name": "sliding_window", "window": 3}, qk_norm=False, kv_heads=1, heads=1, layers=1)
    block = model.blocks[0].attention
    with torch.no_grad():
        for layer, weight in ((block.query, 0.0), (block.key, 0.0), (block.value, 1.0), (block.output, 1.0)):
            layer.weight.copy_(weight * torch.eye(32))
        seen: list[Tensor] = []
        block.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
        model(ids_of(1, 6))
    x, y = seen
    for place in range(6):
        torch.testing.assert_close(y[0, place], x[0, max(0, place - 2) : place + 1].mean(0), **CLOSE)


def test_a_model_of_an_unknown_part_is_refused_in_one_line(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model(feed_forward={"name": "relu_squared"}), toy_tokenizer())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("relu_squared", "relu_cubed"))
    with pytest.raises(ValueError, match=r"config.json: model: feed_forward: [^\n]*'relu_cubed'[^\n]*$"):
        load_model(tmp_path)


def test_a_window_keeps_as_many_tokens_as_it_has() -> None:
    model = toy_model(mixer={"name": "sliding_window", "window": 5})
    assert Cache(model.config, 2, 40).states[0].keys_BKCE.shape[2] == 5
    assert model.config.state_numel(40) == model.config.state_numel(5) < toy_model().config.state_numel(40)


@pytest.mark.parametrize("bounds", [None, [0, 7, 12, 20, 24]])
def test_a_gpus_window_has_the_gradients_of_a_cpus(bounds: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel takes a window as documents that end sooner; Triton's interpreter runs it here."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels are not interpreted here")
    from kernels.attention import operator, triton

    model = decided({"mixer": {"name": "sliding_window", "window": 5}})
    places = None if bounds is None else torch.tensor(bounds)
    found = []
    for gpu in (False, True):
        if gpu:
            monkeypatch.setattr(operator, "kernels", lambda q: triton)
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
            monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
        model.zero_grad()
        (model(ids_of(2, 12), bounds=places) * torch.linspace(-1, 1, 261)).sum().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name
        )
