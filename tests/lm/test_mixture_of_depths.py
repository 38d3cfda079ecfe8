"""Layers that a share of the tokens goes through: by hand, in training against a loop, and afterwards token by token."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention.documents import documents_of
from lm import linears
from lm.checkpoint import load_model, save_model
from lm.config import ConfigError
from lm.cutting.cut import check_units
from lm.hugging_face.config import to_theirs
from lm.mixture_of_depths import MixtureOfDepths, RoutedState, normed, routed_first, select_documents, top_tokens
from lm.model import Cache, Decoder, ModelConfig
from lm.quantized.inputs import sees_rounded
from lm.sampler import generate
from lm.training.flops import flops_per_token
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.lm.made_parts import CLOSE, MIXERS, decided, ids_of
from tests.lm.models import plain_and_compiled, toy_model, toy_tokenizer
from tests.lm.test_training import Recorder, batches, recipe

PRIOR = math.log(0.4 / 0.6)
SOME: dict[str, Any] = {"pattern": [{"depths": {"share": 0.4}}, {}]}


def of_mixer(mixer: type[Any], **depths: Any) -> dict[str, Any]:
    return {"pattern": [{}, {"mixer": mixer().model_dump(), "depths": {"share": 0.4, **depths}}]}


def stream(model: Decoder, ids: Tensor, places: list[int], layer: int = 0) -> Tensor:
    """x_KD behind a layer's parts alone of tokens at these places of a row, each by its place there: what a whole pass over a row of
    these tokens gives, of which positions are those of the row that they come from."""
    block, x_1KD = model.blocks[layer], model.embedding(ids)[:, places]
    _, _, (context, *_) = model.begin_pass(ids, None, None)
    turned = context.__class__(context.cos[places], context.sin[places])
    depths, block.depths = block.depths, None
    y_1KD, _, _ = block(x_1KD, None, turned)
    block.depths = depths
    return y_1KD[0] - x_1KD[0]


@torch.no_grad()
def test_training_is_a_loop_over_the_tokens_with_the_largest_scores() -> None:
    model, ids = decided({**SOME, "layers": 1}).train(), ids_of(3, 11)
    x_BTD, _, (context, *_) = model.begin_pass(ids, None, None)
    y_BTD, _, loss = model.blocks[0](x_BTD, None, context)
    depths, losses = model.blocks[0].depths, []
    for row in range(3):
        scores_T = x_BTD[row] @ depths.router.weight[0]
        places = sorted(sorted(range(11), key=lambda place: -scores_T[place].item())[:5])  # 4.4, rounded up
        wanted_TD = x_BTD[row].clone()
        wanted_TD[places] += scores_T[places, None] * stream(model, ids[row : row + 1], places)
        torch.testing.assert_close(y_BTD[row], wanted_TD, **CLOSE)
        others = [place for place in range(11) if place not in places]
        assert torch.equal(y_BTD[row, others], x_BTD[row, others])
        told_T = torch.tensor([float(place in places) for place in range(11)])
        x_TD = x_BTD[row] / (x_BTD[row].square().mean(-1, keepdim=True) + 1e-6).sqrt()
        likely_T = x_TD @ depths.predictor.weight[0] + PRIOR
        losses.append(F.binary_cross_entropy(likely_T.sigmoid(), told_T))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), **CLOSE)


@torch.no_grad()
def test_afterwards_the_predictor_says_who_goes_through() -> None:
    model, ids = decided({**SOME, "layers": 1}), ids_of(2, 11)
    x_BTD, _, (context, *_) = model.begin_pass(ids, None, None)
    y_BTD, _, loss = model.blocks[0](x_BTD, None, context)
    depths = model.blocks[0].depths
    assert loss is None
    for row in range(2):
        x_TD = x_BTD[row] / (x_BTD[row].square().mean(-1, keepdim=True) + 1e-6).sqrt()
        likely_T = x_TD @ depths.predictor.weight[0] + PRIOR
        places = [place for place in range(11) if likely_T[place] > 0]
        assert 0 < len(places) < 11
        wanted_TD = x_BTD[row].clone()
        scores_T = x_BTD[row] @ depths.router.weight[0]
        wanted_TD[places] += scores_T[places, None] * stream(model, ids[row : row + 1], places)
        torch.testing.assert_close(y_BTD[row], wanted_TD, **CLOSE)


def test_the_predictor_changes_nothing_else() -> None:
    """Its loss has gradients in its own weights alone, and the loss of the model has none in them."""
    model = decided(SOME).train()
    logits = model(ids_of(2, 12))
    told = model.auxiliary_loss()
    assert told is not None
    names = [name for name, _ in model.named_parameters()]
    for value, own in ((told, True), (logits.square().sum(), False)):
        found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, retain_graph=True)
        learns = {name for name, gradient in zip(names, found, strict=True) if gradient is not None and gradient.any()}
        judges = {name for name in names if "predictor" in name}
        assert learns == judges if own else not learns & judges
        assert own or "blocks.0.depths.router.weight" in learns


def test_who_goes_through_by_hand() -> None:
    chosen = top_tokens(torch.tensor([[0.1, 3.0, -1.0, 2.0]]), 2)
    assert chosen.places_BK.tolist() == [[1, 3]] and chosen.through_BK.all()
    ahead = routed_first(torch.tensor([[False, True, False, True], [True, False, False, False]]))
    assert ahead.places_BK.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert ahead.through_BK.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert [MixtureOfDepths(share=0.125).tokens(length) for length in (1, 8, 9, 256)] == [1, 1, 2, 32]


def test_documents_of_the_chosen_by_hand() -> None:
    """Rows of 6: documents 0-1, 2-5 and 6-8, 9-11; of the first row 1, 3, 5 are chosen, of the second 0, 1, 2."""
    documents = documents_of(torch.tensor([0, 2, 6, 9, 12]), 2, 6, torch.device("cpu"))
    found = select_documents(documents, torch.tensor([[1, 3, 5], [0, 1, 2]]), 6)
    assert found.starts_N.tolist() == [0, 1, 1, 3, 3, 3] and found.ends_N.tolist() == [1, 3, 3, 6, 6, 6]
    assert found.starts_N.dtype == documents.starts_N.dtype and found.ends_N.dtype == documents.ends_N.dtype


@torch.no_grad()
def test_documents_of_a_row_that_trains_do_not_mix() -> None:
    """Who goes through is asked of a whole row; whom a token sees is not."""
    model = decided({**SOME, "layers": 1}).train()
    ids = ids_of(1, 18)
    scores_T = model.embedding(ids)[0] @ model.blocks[0].depths.router.weight[0]
    places = sorted(scores_T.topk(8).indices.tolist())
    bounds = [0, places[3], 18]
    x_BTD, _, (context, *_) = model.begin_pass(ids, None, torch.tensor(bounds))
    y_BTD = model.blocks[0](x_BTD, None, context)[0]
    for start, end in zip(bounds, bounds[1:], strict=False):
        own = [place for place in places if start <= place < end]
        wanted = x_BTD[0, own] + scores_T[own, None] * stream(model, ids, own)
        torch.testing.assert_close(y_BTD[0, own], wanted, **CLOSE)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(MIXERS), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 9))
@torch.no_grad()
def test_step_by_step_gives_what_all_at_once_gives(mixer: type[Any], pieces: list[int], seed: int) -> None:
    """Also where some rows have tokens that go through and others have none."""
    model, ids = decided(of_mixer(mixer), seed), ids_of(3, sum(pieces), seed)
    cache, done, found = Cache(model.config, 3, sum(pieces)), 0, []
    for piece in pieces:
        found.append(model(ids[:, done : done + piece], cache))
        done += piece
    torch.testing.assert_close(torch.cat(found, 1), model(ids), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_state_keeps_the_tokens_that_went_through() -> None:
    model, ids = decided({**SOME, "layers": 1}), ids_of(2, 12)
    cache = model.new_cache(2, 12)
    model(ids[:, :9], cache)
    model(ids[:, 9:10], cache)
    state = cache.states[0]
    likely_BT = model.blocks[0].depths.predictor(normed(model.embedding(ids[:, :10]), 1e-6))[..., 0] + PRIOR
    assert isinstance(state, RoutedState) and torch.equal(state.through_BC[:, :10], likely_BT > 0)
    kept_B = state.lengths(cache.lengths_B)
    assert kept_B.tolist() == (likely_BT > 0).sum(1).tolist()
    written_BC = state.inner.keys_BKCE[:, 0].abs().sum(-1) > 0
    for row, kept in enumerate(kept_B.tolist()):
        assert written_BC[row, :kept].all()
    assert state.lengths(torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]  # an answer that has ended
    larger = model.new_cache(3, 20)
    larger.take(torch.tensor([2]), cache, torch.tensor([0]))
    before = model(ids[:, 10:11], cache)
    torch.testing.assert_close(model(ids[[0, 0, 0], 10:11], larger)[2:], before[:1], **CLOSE)
    cache.lengths_B.copy_(torch.tensor([8, 8]))  # tokens are taken back, and come again
    again = model(ids[:, 8:11], cache)[:, -1:]
    torch.testing.assert_close(again, before, **CLOSE)


@torch.no_grad()
def test_an_answer_depends_on_no_other_prompt() -> None:
    model = decided({"pattern": [{}, {"depths": {"share": 0.4}}]})
    prompts = [ids_of(1, length, seed=length)[0].tolist() for length in (3, 9, 14, 5)]
    together = generate(model, prompts, 8, 1.0, 5, seed=0, rows=4)
    alone = [generate(model, [p], 8, 1.0, 5, seed=0, rows=4, draws=[n])[0] for n, p in enumerate(prompts)]
    assert [(a.ids, a.logps) for a in together] == [(a.ids, a.logps) for a in alone]


def test_compiled_blocks_are_a_graph_each() -> None:
    """With attention, in training; every mixer: tests/system/lm/test_compiled_parts.py."""
    compiled_blocks_are_a_graph_each(MIXERS[0], True)


def compiled_blocks_are_a_graph_each(mixer: type[Any], trains: bool) -> None:
    model = toy_model(**of_mixer(mixer)).train(trains)

    def work() -> None:
        logits = model(ids_of(2, 12), bounds=torch.tensor([0, 5, 12, 24]))
        (logits.square().sum() + (model.auxiliary_loss() or 0)).backward()

    assert plain_and_compiled(model, work) == 2


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_do_not_depend_on_what_is_kept(recompute: bool) -> None:
    model, ids = decided(SOME).train(), ids_of(2, 12)
    model.recompute = recompute
    (model(ids).square().mean() + model.auxiliary_loss()).backward()
    plain = decided(SOME).train()
    (plain(ids).square().mean() + plain.auxiliary_loss()).backward()
    for name, weight in plain.named_parameters():
        assert torch.equal(model.get_parameter(name).grad, weight.grad), name


def test_a_run_that_was_stopped_ends_in_the_same_bytes_and_is_read_back(tmp_path: Path) -> None:
    found = []
    for stops in ([None], [3, None]):
        for stop_after in stops:
            model = toy_model(seed=1, **SOME)
            try:
                train(model, recipe(), 6, batches(model), Recorder(tmp_path / str(len(stops)), stop_after))
            except Stopped:
                assert stop_after
        found.append(model.state_dict())
    assert all(torch.equal(found[1][name], weight) for name, weight in found[0].items())
    first = toy_model(seed=1, **SOME).state_dict()
    for name in ("blocks.0.depths.router.weight", "blocks.0.depths.predictor.weight", "blocks.0.ffn.up.weight"):
        assert not torch.equal(first[name], found[0][name])
    save_model(tmp_path, model, toy_tokenizer())
    read, _ = load_model(tmp_path)
    assert read.config == model.config and torch.equal(read(ids_of(1, 9)), model.eval()(ids_of(1, 9)))


def test_the_predictor_learns_who_is_chosen() -> None:
    model = toy_model(seed=1, **SOME)
    train(model, recipe(), 150, batches(model), Recorder(Path()))
    depths = model.blocks[0].depths
    with torch.no_grad():
        x_BTD = model.embedding(ids_of(8, 40))
        chosen = top_tokens(depths.router(x_BTD)[..., 0], 16)
        told_BT = torch.zeros(8, 40).scatter(1, chosen.places_BK, 1.0) > 0
        likely_BT = depths.predictor(normed(x_BTD, 1e-6))[..., 0] + PRIOR > 0
    assert (likely_BT == told_BT).float().mean() > 0.75


def test_a_layer_costs_its_share() -> None:
    def cost(**shape: Any) -> float:
        return flops_per_token(toy_model(layers=1, **shape), 20)

    head = 6 * 261 * 32
    products = cost() - head - 6 * 32 * 20  # attention among 20 tokens
    share = 0.25 * (products + 6 * 32 * 5) + 6 * 2 * 32
    assert cost(pattern=[{"depths": {"share": 0.25}}]) == pytest.approx(head + share, rel=1e-12)


def test_matrices_that_are_held_otherwise_go_through_as_well() -> None:
    model, ids = decided(SOME), ids_of(2, 12)
    with torch.no_grad():
        before = model(ids)
        model.reparametrize(linears.LoRA(rank=1))
        torch.testing.assert_close(model(ids), before, **CLOSE)
    assert not sees_rounded("blocks.0.depths.predictor", model.blocks[0].depths.predictor)
    assert not sees_rounded("blocks.0.depths.router", model.blocks[0].depths.router)


def test_a_layer_of_a_pattern_is_one_of_a_smaller_model() -> None:
    config = toy_model(layers=4, pattern=[{}, {"depths": {"share": 0.4}}]).config
    assert [config.select_layers([1, 2]).layer(index).depths for index in (0, 1)] == [MixtureOfDepths(share=0.4), None]
    assert config.trained_otherwise and not config.select_layers([0, 2]).trained_otherwise


def test_what_does_not_go_together_is_refused_in_one_line() -> None:
    model = toy_model(**SOME)
    with pytest.raises(ValueError, match="no Hugging Face family has depths, by which tokens go past layer 0"):
        to_theirs(model.config)
    with pytest.raises(ConfigError, match="prune: heads and channels of layers that tokens go past cannot be cut"):
        check_units(model, 0, "prune")
    for depths, said in (({"share": 1.0}, "less than 1"), ({"share": 0.0}, "greater than 0.000001")):
        with pytest.raises(ValueError, match=said):
            ModelConfig.model_validate({"pattern": [{"depths": depths}]})
    with pytest.raises(ValueError, match=r"pattern.1.depths: a layer that tokens go past has no embeddings"):
        ModelConfig.model_validate({"embeddings": [{"name": "x0"}], "pattern": [{}, {"depths": {}}]})
