"""The decoder against transformers, and its cache against itself."""

import pytest
import torch
import transformers

from lm.context import Context
from lm.hugging_face.load import their_name
from lm.model import Cache, Decoder, ModelConfig
from tests.lm.models import toy_model


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_those_of_transformers(qk_norm: bool, tied: bool) -> None:
    ours = toy_model(seed=3, qk_norm=qk_norm, tied=tied)
    with torch.no_grad():
        for weight in ours.parameters():  # norms away from one, and a scale at which a wrong mask would show
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    shape = ours.config
    kind = transformers.Qwen3Config if qk_norm else transformers.LlamaConfig
    config = kind(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=tied,
        attention_bias=False,
    )
    theirs = (transformers.Qwen3ForCausalLM if qk_norm else transformers.LlamaForCausalLM)(config).eval()
    state = {their_name(name, shape): weight for name, weight in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    ids = torch.randint(0, 261, (3, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (ours(ids) - theirs(ids).logits).abs().max().item()
    assert difference < 1e-4  # fp32 with sums in another order; logits are of the order of 10


def test_cache_gives_the_same_logits_as_the_whole_sequence() -> None:
    model, ids = toy_model(), torch.arange(40).view(2, 20)
    cache = Cache(model.config, 2, 20)
    with torch.no_grad():
        pieces = [model(ids[:, a:b], cache) for a, b in [(0, 7), (7, 8), (8, 20)]]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=0, atol=1e-5)


def test_rows_of_a_cache_have_lengths_of_their_own() -> None:
    model, ids = toy_model(), torch.arange(36).view(2, 18)
    short, cache = Cache(model.config, 2, 12), Cache(model.config, 3, 20)
    with torch.no_grad():
        model(ids[:, :12], short)  # of the second row only the first 5 count
        short.lengths_B = torch.tensor([12, 5])
        cache.take(torch.tensor([2, 0]), short, torch.tensor([0, 1]))
        assert cache.lengths_B.tolist() == [5, 0, 12]
        following = torch.stack((ids[1, 5:11], ids[0, :6], ids[0, 12:18]))
        got = model(following, cache)
        whole = model(ids)
    torch.testing.assert_close(got[2], whole[0, 12:18], rtol=0, atol=1e-5)
    torch.testing.assert_close(got[0], whole[1, 5:11], rtol=0, atol=1e-5)
    torch.testing.assert_close(got[1], whole[0, :6], rtol=0, atol=1e-5)


def test_causal() -> None:
    model, ids = toy_model(), torch.arange(20).view(1, 20)
    changed = ids.clone()
    changed[0, 12] = 200
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12]) and not torch.equal(before[:, 12:], after[:, 12:])


def test_documents_of_a_row_do_not_see_each_other() -> None:
    model, ids = toy_model(), torch.randint(0, 261, (2, 20), generator=torch.Generator().manual_seed(0))
    bounds = torch.tensor([0, 7, 20, 39, 40])
    with torch.no_grad():
        packed = model(ids, bounds=bounds).flatten(0, 1)
        for start, end in ((0, 7), (7, 20), (20, 39), (39, 40)):
            alone = model(ids.flatten()[None, start:end])[0]
            # rotary angles differ by a constant that cancels: rounding of fp32 cosines of up to 20 radians
            torch.testing.assert_close(packed[start:end], alone, rtol=0, atol=1e-5)
        changed = ids.clone()
        changed[0, 3] = (ids[0, 3] + 1) % 261
        after = model(changed, bounds=bounds).flatten(0, 1)
    assert torch.equal(after[7:], packed[7:]) and not torch.equal(after[3:7], packed[3:7])


def test_bounds_of_whole_rows_change_nothing() -> None:
    model, ids = toy_model(), torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, bounds=torch.tensor([0, 20, 40])), model(ids), rtol=0, atol=1e-5)


def test_bounds_with_a_cache_are_refused() -> None:
    model = toy_model()
    with pytest.raises(ValueError, match="one document a row"):
        model(torch.zeros(1, 4, dtype=torch.int64), Cache(model.config, 1, 4), torch.tensor([0, 2, 4]))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = toy_model(seed=1).state_dict()
    torch.manual_seed(8)
    second, other = toy_model(seed=1).state_dict(), toy_model(seed=2).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_parameters_counted_by_hand() -> None:
    # embedding 261*32; a block: q 32*32, k and v 32*16 each, o 32*32, ffn 3*32*48, norms 2*32 + 2*8; last norm 32
    block = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48 + 64 + 16
    assert toy_model().num_parameters() == 261 * 32 + 2 * block + 32


def test_bad_shapes_and_too_long_sequences() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        ModelConfig(vocab_size=5, width=30, heads=4)
    with pytest.raises(ValueError, match="context of 48"):
        toy_model()(torch.zeros(1, 49, dtype=torch.int64))
    with pytest.raises(ValueError, match="context of 48"):
        Cache(toy_model().config, 1, 49)
    assert isinstance(toy_model(tied=False).head, torch.nn.Linear) and isinstance(toy_model(), Decoder)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch):
    """Tensors say that they are a GPU's from when it is called: kernels take that path, which Triton's interpreter runs."""
    return lambda: monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))


def gradients_of(model: Decoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradient of every weight, of a loss that is not symmetric in anything."""
    ids = torch.randint(0, 261, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = model(ids)
    model.zero_grad()
    (logits.float() * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_gpus_path_has_the_gradients_of_a_cpus(on_gpu, qk_norm: bool) -> None:
    """Norms with the sum before them and the rotation behind them as one kernel, and products that add: another order of sums."""
    if torch.cuda.is_available():
        pytest.skip("kernels are not interpreted here")
    model = toy_model(qk_norm=qk_norm, qkv_bias=not qk_norm)
    wanted, gradients = gradients_of(model)
    on_gpu()
    logits, found = gradients_of(model)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-6)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)
    with torch.autocast("cpu", torch.bfloat16):
        for model.low_stream in (False, True):
            _, rounded = gradients_of(model)
            for name, gradient in gradients.items():
                assert rounded[name].dtype == torch.float32
                alike = torch.nn.functional.cosine_similarity(rounded[name].flatten(), gradient.flatten(), dim=0)
                assert alike > 0.99, f"{name}: {alike}"


@pytest.mark.parametrize("wanted", [False, True])
def test_the_stream_is_bf16_where_it_is_asked_for_and_products_are(wanted: bool) -> None:
    model, ids, seen = toy_model(), torch.arange(20).view(2, 10), []
    plain = model(ids)
    model.low_stream = wanted
    assert torch.equal(model(ids), plain)  # products are fp32 here
    for block in model.blocks:
        block.register_forward_hook(lambda block, inputs, outputs: seen.append(outputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids)
    assert seen == [torch.bfloat16 if wanted else torch.float32] * 2
    torch.testing.assert_close(rounded.float(), plain, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_compiled_block_has_the_gradients_of_a_plain_one(qk_norm: bool) -> None:
    """Of its input and of every weight: gradients of zero would not show in a loss that falls."""
    block = toy_model(qk_norm=qk_norm).blocks[0]
    x, cos, sin = torch.randn(2, 9, 32).requires_grad_(), torch.randn(9, 4).cos(), torch.randn(9, 4).sin()
    torch._dynamo.reset()
    results = []
    for run in (type(block).__call__, torch.compile(type(block).__call__, backend="aot_eager", fullgraph=True)):
        y, waiting, _ = run(block, x, None, Context(cos, sin))
        assert waiting is None
        inputs = {"x": x, **dict(block.named_parameters())}
        found = torch.autograd.grad(y, list(inputs.values()), torch.linspace(-1, 1, y.numel()).view(y.shape))
        results.append(dict(zip(inputs, found, strict=True)))
    plain, compiled = results
    for name, gradient in plain.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
