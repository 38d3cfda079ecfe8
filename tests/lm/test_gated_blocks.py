"""SeerAttention: the gate's truth by hand, its gradients beside autograd, what it picks, and what learns from it."""

import math

import pytest
import torch
from torch import Tensor

from flows.forecast.dry_run import Live
from kernels.block_attention.blocks import blocks_of
from kernels.rope.reference import rotate
from lm.mixers import GatedBlocks
from lm.mixers.block_gate import BlockPairs, choice, gate_loss, pooled, top_pairs, truth_of
from lm.model import Cache, Decoder
from lm.rope import rotary_cos_sin
from tests.lm.made_parts import (
    CLOSE,
    assert_an_empty_row_begins_at_nothing,
    assert_gradients_stay_within_documents,
    check_read_together,
    decided,
    ids_of,
)
from tests.lm.models import plain_and_compiled, toy_model

MIXER = {"name": "gated_blocks", "block": 2, "top": 2}
WIDE = {"rtol": 1e-9, "atol": 1e-11}
COS, SIN = (table.double() for table in rotary_cos_sin(1e4, 4, 16, None))
STARTS = torch.tensor([[0] * 3 + [3] * 6, [0] * 9])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def slow_pairs(block: int) -> list[tuple[int, list[int], list[int]]]:
    """(row, tokens of a block, tokens of it or of one before it in its document) of all pairs, token after token."""
    found = []
    for row, starts in enumerate(STARTS.tolist()):
        blocks: dict[tuple[int, int], list[int]] = {}
        for t, start in enumerate(starts):
            blocks.setdefault((start, (t - start) // block), []).append(t)
        for (start, number), own in blocks.items():
            found += [(row, own, blocks[start, before]) for before in range(number + 1)]
    return found


def slow_truth(q: Tensor, k: Tensor, row: int, head: int, own: list[int], theirs: list[int]) -> float:
    """The largest entry that softmax over a token's document up to itself has for one of these queries and keys."""
    most = 0.0
    for t in own:
        seen = list(range(int(STARTS[row, t]), t + 1))
        shares = (k[row, seen, head // 2] @ q[row, t, head] / math.sqrt(4)).softmax(0)
        most = max([most, *(float(shares[seen.index(s)]) for s in theirs if s <= t)])
    return most


def test_the_truth_by_hand() -> None:
    """Four tokens in blocks of two, keys all 0 but the third, of which queries are told to see twice as much."""
    q = torch.ones(1, 4, 1, 1).double()
    k = torch.tensor([0.0, 0.0, math.log(2), 0.0]).double().view(1, 4, 1, 1)
    tiles = BlockPairs.of(k, torch.zeros(1, 3, 2).double(), COS[:4, :1], SIN[:4, :1], torch.zeros(1, 4), 2).tiles
    # the third token has shares 1/4, 1/4, 1/2 and the last 1/5, 1/5, 2/5, 1/5; the first sees itself alone
    torch.testing.assert_close(truth_of(q, k, tiles), torch.tensor([[[[1.0, 0.0], [0.25, 0.5]]]]).double())


@pytest.mark.parametrize("block", [1, 2, 4, 20])
def test_the_loss_and_its_gradients_are_those_of_a_slow_gate(block: int) -> None:
    q, k, queries, keys = (numbers(2, 9, heads, 4, seed=seed) for seed, heads in enumerate((4, 2, 4, 2)))
    weight_q, weight_k = (numbers(*shape, seed=7).requires_grad_() for shape in ((4, 4, 4), (2, 12, 4)))
    loss = gate_loss(q, k, queries, keys, weight_q, weight_k, COS[:9], SIN[:9], STARTS, block)[0]
    found = [loss.detach(), *torch.autograd.grad(3.0 * loss, (weight_q, weight_k))]
    losses = []
    for row, own, theirs in slow_pairs(block):
        for head in range(4):
            of_keys = keys[row, theirs, head // 2]
            stacked = torch.cat((of_keys.amax(0), of_keys.amin(0), of_keys.mean(0)))
            first, last = own[0], theirs[-1]
            turned_q = rotate((queries[row, first, head] @ weight_q[head])[None], COS[first], SIN[first])
            turned_k = rotate((stacked @ weight_k[head // 2])[None], COS[last], SIN[last])
            predicted = torch.sigmoid((turned_q * turned_k).sum() / 2)
            truth = slow_truth(q, k, row, head, own, theirs)
            losses.append(-truth * predicted.log() - (1 - truth) * (1 - predicted).log())
    wanted = torch.stack(losses).mean()
    torch.testing.assert_close(found[0], wanted.detach(), **WIDE)
    for mine, theirs_ in zip(found[1:], torch.autograd.grad(3.0 * wanted, (weight_q, weight_k)), strict=True):
        torch.testing.assert_close(mine, theirs_, **WIDE)


def test_blocks_are_picked_by_hand() -> None:
    """One row of five blocks of one token; queries want what is large in their first number, mean keys are themselves."""
    keys = torch.zeros(1, 5, 1, 4).double()
    keys[0, :, 0, 0] = torch.tensor([1.0, 4.0, 2.0, 3.0, 9.0])
    queries = torch.tensor([1.0, 0.0, 0.0, 0.0]).double().expand(1, 5, 1, 4)
    weight = torch.cat((torch.zeros(8, 4), torch.eye(4))).double()[None]
    still = torch.ones(5, 2).double(), torch.zeros(5, 2).double()
    kept = choice(queries, keys, weight, *still, torch.zeros(1, 5), 1, 2)[0, 0].int().tolist()
    assert kept == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 1]]
    assert top_pairs(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[False, True, True]]), 1).tolist() == [
        [False, False, True]
    ]


def test_pools_are_of_the_tokens_that_are_there() -> None:
    k = torch.tensor([[1.0, -5.0], [3.0, 0.0], [7.0, 7.0]]).view(1, 1, 1, 3, 2)
    there = torch.tensor([[[True, True, False]]])
    assert pooled(k, there).flatten().tolist() == [3.0, 0.0, 1.0, -5.0, 2.0, -2.5]
    assert pooled(k[..., :2, :]).tolist() == pooled(k, there).tolist()
    assert not pooled(k, torch.zeros(1, 1, 3, dtype=torch.bool)).any()


def test_little_of_the_attention_map_is_held_at_once() -> None:
    """Four rows of 1024 tokens and 4 heads, whose maps are 64 MiB in fp32: a forecast counts none of it."""
    starts = torch.zeros(4, 1024, dtype=torch.int64)
    q = torch.randn(4, 1024, 4, 8, generator=torch.Generator().manual_seed(0))
    tiles = blocks_of(starts, 32)[0]
    with Live(1.0) as live:
        truth_of(q, q, tiles)
    assert live.peak < 20 * 2**20


def of_all_blocks(model: Decoder) -> Decoder:
    full = decided({})
    missing = full.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys and all(".predictor." in name for name in missing.unexpected_keys)
    return full


def test_with_all_blocks_it_is_full_attention_and_in_training_always() -> None:
    bounds = torch.tensor([0, 7, 18, 36])
    for top, training, same in ((9, False, True), (1, False, False), (1, True, True)):
        model = decided({"mixer": {**MIXER, "top": top}}).train(training)
        found, wanted = (each(ids_of(2, 18), bounds=bounds) for each in (model, of_all_blocks(model)))
        assert torch.allclose(found, wanted, **CLOSE) == same


def test_nothing_but_the_gate_learns_from_its_loss() -> None:
    model = decided({"mixer": MIXER}).train()
    model(ids_of(2, 18))
    loss = model.auxiliary_loss()
    assert loss is not None
    loss.backward()
    learned = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert learned == {f"blocks.{n}.attention.predictor.{of}" for n in (0, 1) for of in ("query", "key")}


def test_a_gate_learns_where_attention_is() -> None:
    """Of two heads that look at other tokens, by steps on the loss alone."""
    model = decided({"mixer": {**MIXER, "top": 1}, "layers": 1}).train()
    gate = [weight for name, weight in model.named_parameters() if ".predictor." in name]
    optimizer = torch.optim.Adam(gate, 0.03)
    losses = []
    for step in range(60):
        model(ids_of(8, 18, seed=step % 4))
        loss = model.auxiliary_loss()
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kv_heads", [1, 4])
@torch.no_grad()
def test_a_long_row_step_by_step_is_what_it_is_at_once(kv_heads: int) -> None:
    model = decided({"mixer": {**MIXER, "block": 3}, "kv_heads": kv_heads})
    cache = Cache(model.config, 2, 47)
    ids = ids_of(2, 5)
    model.hidden(ids, cache, counts_B=torch.tensor([5, 2]))
    read = [ids[0].tolist(), ids[1, :2].tolist()]
    for length in (1, 9, 1, 3, 1, 1, 11, 2):
        more = ids_of(2, length, seed=length)
        found = model(more, cache)
        for row in range(2):
            read[row] += more[row].tolist()
            torch.testing.assert_close(found[row], model(torch.tensor([read[row]]))[0, -length:], **CLOSE)


@torch.no_grad()
def test_rows_of_a_larger_state_begin_as_others() -> None:
    check_read_together(decided({"mixer": MIXER}), [5, 9, 1], 2, 5)


def test_a_gradient_stays_within_its_document() -> None:
    assert_gradients_stay_within_documents({**MIXER, "top": 9})


def test_a_row_without_tokens_begins_at_nothing_whatever_its_state_is() -> None:
    assert_an_empty_row_begins_at_nothing(MIXER)


@pytest.mark.parametrize("training", [False, True])
def test_documents_compile_to_one_graph(training: bool) -> None:
    model, bounds = toy_model(mixer=MIXER).train(training), torch.tensor([0, 5, 12, 24])

    def work() -> None:
        loss = model(ids_of(2, 12), bounds=bounds).square().sum()
        added = model.auxiliary_loss()
        (loss if added is None else loss + added).backward()

    assert plain_and_compiled(model, work) == 1


def test_flop_and_numbers_kept() -> None:
    shape = toy_model(mixer=MIXER).config
    assert GatedBlocks(block=64).flops(shape, 63) == pytest.approx(14 * 4 * 8 * 32, rel=0.05)
    assert shape.state_numel(40) == 2 * (3 * 2 + 6 / 2) * 8 * 40
    assert Cache(shape, 1, 39).states[0].keys_BKCE.shape[2] == 40
