"""TTT-Linear beside a plain loop that takes the paper's gradient steps by autograd, a document at a time, and its state."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.documents import documents_of
from lm.context import Context
from lm.mixers import TTTLinear
from lm.mixers.ttt_linear import Norm, TTTHeads
from lm.model import Cache
from tests.lm.made_parts import (
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    decided,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

WIDE = {"rtol": 1e-9, "atol": 1e-10}
MIXER = {"name": "ttt_linear", "mini_batch": 4}
EMPTY = torch.empty(0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def layer_of(mini_batch: int) -> TTTHeads:
    """A layer in double precision, no weight of which is 0; 4 heads of 8."""
    layer = TTTLinear(mini_batch=mini_batch, rate=0.7).build(toy_model().config).double()
    with torch.no_grad():
        for index, (name, weight) in enumerate(layer.named_parameters()):
            begun = weight if name in ("first", "scale") else 0.0
            weight.copy_(numbers(*weight.shape, seed=index) * 0.2 + begun)
    return layer


def normed(layer: TTTHeads, head: int, z_E: Tensor) -> Tensor:
    return F.layer_norm(z_E, (8,), layer.scale[head], layer.shift[head], layer.eps)


def looped(layer: TTTHeads, x_TD: Tensor, mini_batch: int) -> Tensor:
    """y_TD of one document: the rules of Sun et al. 2024, sections 2.3 and 2.4, a token at a time; each
    gradient is autograd's, of half the mean square over a head."""
    rate_TH = 0.7 * torch.sigmoid(layer.step(x_TD))
    views = [matrix(x_TD).unflatten(1, (4, 8)) for matrix in (layer.query, layer.key, layer.value)]
    rows = []
    base_HEE = current_HEE = list(layer.first)
    for t, (q_HE, k_HE, v_HE) in enumerate(zip(*views, strict=True)):
        if t % mini_batch == 0:
            base_HEE = current_HEE
        made = []
        current_HEE = list(current_HEE)
        for head in range(4):
            weights = base_HEE[head].detach().requires_grad_()
            with torch.enable_grad():
                loss = (k_HE[head] + normed(layer, head, k_HE[head] @ weights) - v_HE[head]).square().mean() / 2
                (gradient,) = torch.autograd.grad(loss, weights)
            current_HEE[head] = current_HEE[head] - rate_TH[t, head] * gradient
            made.append(q_HE[head] + normed(layer, head, q_HE[head] @ current_HEE[head]))
        rows.append(torch.cat(made))
    return layer.output(torch.stack(rows))


@pytest.mark.parametrize("mini_batch", [1, 4, 5, 40])
@pytest.mark.parametrize("bounds", [[0, 23, 46], [0, 1, 6, 8, 9, 10, 23, 27, 39, 46]], ids=["rows", "documents"])
@torch.no_grad()
def test_it_is_the_loop_of_the_paper_in_every_document(mini_batch: int, bounds: list[int]) -> None:
    layer, x_BTD = layer_of(mini_batch), numbers(2, 23, 32, seed=9)
    documents = None if bounds == [0, 23, 46] else documents_of(torch.tensor(bounds), 2, 23, torch.device("cpu"))
    context = Context(EMPTY, EMPTY, documents)
    shared = TTTLinear(mini_batch=mini_batch).prepare(toy_model().config, context, 2, 23)
    found = layer(x_BTD, Context(EMPTY, EMPTY, documents, shared)).flatten(0, 1)
    for start, end in zip(bounds, bounds[1:], strict=False):
        wanted = looped(layer, x_BTD.flatten(0, 1)[start:end], mini_batch)
        torch.testing.assert_close(found[start:end], wanted, **WIDE)


@torch.no_grad()
def test_a_mini_batch_is_learned_from_at_the_weights_before_it() -> None:
    """Other sizes are other functions: steps of one token, of four, and of all at once."""
    x_BTD = numbers(1, 12, 32, seed=9)
    ones, fours, all_ = (layer_of(size)(x_BTD, Context(EMPTY, EMPTY)) for size in (1, 4, 12))
    torch.testing.assert_close(ones[:, :1], all_[:, :1], **WIDE)
    torch.testing.assert_close(fours[:, :4], all_[:, :4], **WIDE)
    for first, second, place in ((ones, fours, 1), (fours, all_, 4), (ones, all_, 1)):
        assert (first - second)[:, place].abs().max() > 1e-4


def test_a_gradient_by_hand() -> None:
    """Two numbers z = (3, 1): mean 2, deviation 1, standard (1, -1). Whatever v is, LN of two numbers is (1, -1) for all z near
    it, so that no gradient comes to z, but for eps; of three, autograd has the same."""
    norm = Norm(torch.ones(1, 2).double(), torch.zeros(1, 2).double(), 0.0)
    z, k, v = (torch.tensor([[[each]]]).double() for each in ([3.0, 1.0], [0.5, 2.0], [4.0, -1.0]))
    torch.testing.assert_close(norm.standard(z)[0], torch.tensor([[[[1.0, -1.0]]]]).double())
    torch.testing.assert_close(norm.gradient(z, k, v), torch.zeros(1, 1, 1, 2).double())
    norm = Norm(numbers(2, 3, seed=4), numbers(2, 3, seed=5), 1e-3)
    z, k, v = (numbers(1, 2, 5, 3, seed=seed) for seed in range(3))
    z.requires_grad_()
    made = k + F.layer_norm(z, (3,), None, None, 1e-3) * norm.scale_HE[:, None] + norm.shift_HE[:, None]
    (wanted,) = torch.autograd.grad((made - v).square().mean(-1).sum() / 2, z)
    torch.testing.assert_close(norm.gradient(z, k, v), wanted, **WIDE)


def test_the_outer_gradient_goes_through_the_inner_one() -> None:
    layer = layer_of(3)
    x_BTD = numbers(1, 7, 32, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, Context(EMPTY, EMPTY))[..., :3], x_BTD)


def test_a_gradient_stays_within_its_document() -> None:
    assert_gradients_stay_within_documents(MIXER)


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


@torch.no_grad()
def test_padding_alone_leaves_a_state_as_it_was() -> None:
    model = decided({"mixer": MIXER})
    cache = Cache(model.config, 2, 14)
    model(ids_of(2, 6), cache)
    before = [[kept.clone() for kept in state.model] for state in cache.states]
    model.hidden(ids_of(2, 7, seed=1), cache, counts_B=torch.tensor([0, 3]))
    for state, was in zip(cache.states, before, strict=True):
        for kept, then in zip(state.model, was, strict=True):
            assert torch.equal(kept[0], then[0]) and not torch.equal(kept[1], then[1])


def test_a_state_is_two_matrices_a_head_whatever_the_length() -> None:
    model = toy_model(mixer=MIXER)
    assert model.config.state_numel(40) == model.config.state_numel(1) == 2 * 2 * 4 * 8 * 8
    for dtype, own in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        states = Cache(model.config, 2, 40, dtype=dtype).states
        assert {(each.dtype, each.shape) for state in states for each in state.model} == {(own, (2, 4, 8, 8))}


def test_its_flop_are_those_of_its_products() -> None:
    """A mini-batch of 4 and a head of 8: k W, q W and the sum 2 x 64 each, q k and its product with g 2 x 4 x 8 each."""
    assert TTTLinear(mini_batch=4).flops(toy_model().config, 40) == 3 * 4 * (3 * 128 + 2 * 64)
    assert TTTLinear(mini_batch=4).flops(toy_model().config, 2) == 3 * 4 * (3 * 128 + 2 * 32)


def test_documents_compile_to_one_graph() -> None:
    model = toy_model(mixer=MIXER)
    bounds = torch.tensor([0, 5, 12, 24])
    assert plain_and_compiled(model, lambda: model(ids_of(2, 12), bounds=bounds).square().sum().backward()) == 1


def test_products_within_are_not_rounded() -> None:
    model, ids = decided({"mixer": MIXER, "layers": 1}), ids_of(1, 12)
    seen: list[torch.dtype] = []
    with torch.autocast("cpu", torch.bfloat16):
        model.blocks[0].attention.output.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
        cache = Cache(model.config, 1, 12, dtype=torch.bfloat16)
        stepwise = model(ids, cache)
    assert seen == [torch.bfloat16] and cache.states[0].model.weights_BHEE.dtype == torch.float32
    assert F.cosine_similarity(stepwise.flatten().float(), model(ids).flatten(), dim=0) > 0.99
