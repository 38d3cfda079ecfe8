"""Several tokens ahead: targets by hand, the loss beside one that holds all logits, and a run that is stopped and gone on with."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.linear_cross_entropy import IGNORED
from lm.averages import Ema
from lm.future_heads import FutureHeads, future_heads
from lm.model import Decoder, ModelConfig
from lm.optimizers import Muon
from lm.schedules import Cosine
from lm.training.batch import Batch, backward
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.parallel.fsdp import make_plain
from lm.training.recipe import Recipe
from tasks.core.log import Stopped
from tasks.pretrain.needs import checkpoint_bytes
from tasks.pretrain.objectives import MultiToken, NextToken
from tasks.pretrain.objectives.multi_token import shifted_targets
from tasks.pretrain.step import loss_of
from tests.lm.made_parts import ids_of, stirred
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder


def carrying(heads: int = 2, seed: int = 0, **shape: object) -> tuple[Decoder, MultiToken]:
    model, objective = toy_model(seed=1, **shape), MultiToken(heads=heads)
    objective.add_modules(model, seed)
    return model, objective


def test_targets_by_hand() -> None:
    """Tokens 1 to 6 predict 2 to 7; 2 further on they predict 4 to 7, and of documents 1 2 3 4 and 5 6, 4 alone in the first and
    nothing in the second, since 7 may be of the next one."""
    targets, no = torch.tensor([[2, 3, 4, 5, 6, 7]]), IGNORED
    assert shifted_targets(targets, 1, None).tolist() == [[3, 4, 5, 6, 7, no]]
    assert shifted_targets(targets, 2, None).tolist() == [[4, 5, 6, 7, no, no]]
    assert shifted_targets(targets, 9, None).tolist() == [[no] * 6]
    assert shifted_targets(targets, 2, torch.tensor([0, 4, 6])).tolist() == [[4, no, no, no, no, no]]
    assert shifted_targets(targets, 1, torch.tensor([0, 4, 6])).tolist() == [[3, 4, no, no, no, no]]


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(1, 23), max_size=6), st.integers(1, 5))
def test_no_target_is_of_another_document(edges: set[int], further: int) -> None:
    """Each input token is its place, so a target says where it is."""
    bounds = torch.tensor(sorted({0, 12, 24} | edges))
    documents = torch.bucketize(torch.arange(24), bounds, right=True)
    tokens = torch.cat((torch.arange(24).view(2, 12), torch.tensor([[12], [24]])), 1)
    found = shifted_targets(tokens[:, 1:], further, bounds).flatten()
    for place, target in enumerate(found.tolist()):
        inside = place + 1 + further < 24 and documents[place] == documents[place + 1 + further]
        assert target == (place + 1 + further if inside else IGNORED)


def reference(model: Decoder, tokens: Tensor, heads: int) -> Tensor:
    """The sum over heads of their cross-entropies, all logits at once, by hooks on the shared norm."""
    found = []
    for x, further in zip(future_heads(model)(model, tokens[:, :-1], None), range(heads + 1), strict=True):
        logits = F.linear(x, model.head_weight)[:, : tokens.shape[1] - 1 - further]
        found.append(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1 + further :].flatten(), reduction="sum"))
    return torch.stack(found).sum()


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_all_logits(tied: bool) -> None:
    model, objective = carrying(tied=tied)
    stirred(model)
    tokens = ids_of(2, 9)
    loss, metrics = objective(model, tokens, None, 16)
    loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    wanted = reference(model, tokens, 2) / 16
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(
            ours[name], weight.grad, rtol=1e-4, atol=1e-5 * float(weight.grad.abs().max()), msg=name
        )
    plain, _ = NextToken()(model, tokens, None, 16)
    torch.testing.assert_close(metrics["cross_entropy"], plain.detach())
    torch.testing.assert_close(metrics["cross_entropy"] + 2 * metrics["cross_entropy_ahead"], loss.detach())


@torch.no_grad()
def test_the_first_head_is_the_model_to_the_bit_and_the_others_are_layers_of_their_own() -> None:
    model, _ = carrying()
    first, second, third = future_heads(model)(model, ids_of(2, 9), None)
    assert torch.equal(first, model.hidden(ids_of(2, 9)))
    assert not torch.allclose(first, second) and not torch.allclose(second, third)
    future_heads(model).blocks[0].load_state_dict(model.blocks[-1].state_dict())
    assert torch.equal(future_heads(model)(model, ids_of(2, 9), None)[1], first)


def test_the_seed_decides_the_heads_and_they_are_not_the_decoders_draws() -> None:
    drawn = [dict(carrying(seed=seed)[0].named_parameters())["heads.blocks.0.ffn.up.weight"] for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    flat = toy_model(seed=1).embedding.weight.flatten()
    assert not torch.allclose(drawn[0].flatten()[:100], flat[:100], atol=1e-3)


@pytest.mark.parametrize("within", [False, True])
def test_parts_of_a_batch_add_up_and_each_is_the_next_tokens(within: bool) -> None:
    model, objective = carrying()
    tokens, each = ids_of(4, 9), torch.zeros(4, 8)
    bounds = torch.tensor([0, 3, 8, 16, 21, 24, 32]) if within else None

    def loss(rows: slice) -> tuple[Tensor, dict]:
        return loss_of(objective, model, tokens, bounds, rows, 32, None, each[rows])

    whole, _ = backward(Batch(4, 8, 32, loss), 1000)
    kept = each.clone()
    parts, metrics = backward(Batch(4, 8, 32, loss), 8)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(each, kept)
    torch.testing.assert_close(metrics["cross_entropy"], each.mean())


def test_heads_are_dropped_and_what_they_cost_is_counted() -> None:
    plain, (model, objective) = toy_model(seed=1), carrying()
    layer = sum(weight.numel() for weight in plain.blocks[1].parameters())
    assert model.num_parameters() == plain.num_parameters() + 2 * layer
    assert objective.added_parameters(plain.config) == 2 * layer and NextToken().added_parameters(plain.config) == 0
    of_layers = flops_per_token(plain, 8) - 6 * plain.head_weight.numel()
    assert flops_per_token(model, 8) == flops_per_token(plain, 8) + of_layers + 2 * 6 * plain.head_weight.numel()
    assert checkpoint_bytes(plain.config) > 0
    objective.drop(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in model.state_dict().items())


def fit(scratch: Path, after: int | None = None, heads: int = 2) -> Decoder:
    model, objective = carrying(heads=heads)
    recipe = Recipe(optimizer=Muon(), schedule=Cosine(), average=Ema(), clip=1.0)

    def batch_at(step: int) -> Batch:
        tokens = ids_of(4, 9, seed=step)
        return Batch(4, 8, 32, lambda rows: loss_of(objective, model, tokens, None, rows, 32))

    train(model, recipe, 6, batch_at, Recorder(scratch, after))
    return model


def test_a_run_that_was_stopped_ends_in_the_same_bytes_heads_and_all(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(Stopped):
            fit(tmp_path / "cut", 2)
    resumed = fit(tmp_path / "cut").state_dict()
    assert any(name.startswith("heads.") for name in resumed)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.state_dict().items())
    first = carrying()[0].state_dict()
    assert not any(torch.equal(weight, first[name]) for name, weight in resumed.items())
    assert not torch.equal(whole.embedding.weight, fit(tmp_path / "three", heads=3).embedding.weight)


def test_a_checkpoint_of_other_heads_is_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(tmp_path, 2)
    with pytest.raises(ValueError, match=r"it has no model.heads.blocks.2."):
        fit(tmp_path, None, heads=3)


def test_what_ranks_cut_is_put_together_with_its_heads() -> None:
    model, _ = carrying()
    weights = {name: weight.detach() + 1 for name, weight in model.state_dict().items()}
    make_plain(model, weights)
    assert isinstance(future_heads(model), FutureHeads) and isinstance(model.config, ModelConfig)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
