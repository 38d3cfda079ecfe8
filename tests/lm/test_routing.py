"""Experts that choose tokens, and experts that are all trained: by hand, against loops, and what differs after training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from lm import linears
from lm.feed_forwards import Experts
from lm.feed_forwards.grouped import grouped_product
from lm.feed_forwards.routing import (
    expert_choice_mask,
    information_loss,
    quantile_loss,
    routing_weights,
    token_choice_mask,
)
from lm.hugging_face.config import to_theirs
from lm.hugging_face.export import save_hf
from lm.hugging_face.load import load_hf
from lm.model import Decoder
from lm.training.batch import Batch, Metrics, backward, with_auxiliary
from lm.training.flops import flops_per_token
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.lm.made_parts import CLOSE, decided, ids_of
from tests.lm.models import plain_and_compiled, toy_model, toy_tokenizer
from tests.lm.test_training import Recorder, batches, recipe

WIDE = {"rtol": 1e-10, "atol": 1e-12}
WAYS: list[dict[str, Any]] = [
    {"router": "expert_choice", "experts": 4, "active": 2, "normalised": False},
    {"router": "expert_choice", "experts": 5, "active": 3, "normalised": False, "shared": 1},
    {"router": "expert_choice", "experts": 3, "active": 3, "normalised": False},
    {"router": "dense", "experts": 5, "active": 2},
    {
        "router": "dense",
        "experts": 4,
        "active": 3,
        "epsilon": 0.3,
        "normalised": False,
        "shared": 1,
        "shared_gate": True,
    },
]


def toy(way: dict[str, Any], **shape: Any) -> Decoder:
    return decided({"feed_forward": {"name": "experts", **way}, **shape})


def x_of(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(seed))


def by_loops(ffn: Any, x_BTD: Tensor, trains: bool) -> Tensor:
    """y_BTD as the papers write it: which experts a token has, one after the other."""
    part, rows = ffn.part, []
    for x_TD in x_BTD:
        scores_TX = (x_TD @ ffn.router.weight.T).softmax(-1)
        T, X = scores_TX.shape
        chosen: list[set[int]] = [set() for _ in range(T)]
        if part.router == "expert_choice" and trains:
            for index in range(X):
                ranked = sorted(range(T), key=lambda place: -scores_TX[place, index].item())
                for place in ranked[: -(-T * part.active // X)]:
                    chosen[place].add(index)
        elif part.router == "expert_choice":
            for place in range(T):
                all_of = part.active == X
                chosen[place] = {i for i in range(X) if all_of or scores_TX[place, i] > ffn.threshold[i].exp()}
        else:
            for place in range(T):
                ranked = sorted(range(X), key=lambda index: -scores_TX[place, index].item())
                if not trains:
                    ranked = [
                        i for n, i in enumerate(ranked[: part.active]) if not n or scores_TX[place, i] > part.epsilon
                    ]
                chosen[place] = set(ranked)
        made = []
        for place, x_D in enumerate(x_TD):
            total = sum(scores_TX[place, index] for index in chosen[place]) if part.normalised else 1.0
            y_D = sum((scores_TX[place, i] / total * ffn.experts[i](x_D) for i in chosen[place]), torch.zeros_like(x_D))
            if part.shared:
                gate = torch.sigmoid(ffn.shared_gate.weight[0] @ x_D) if part.shared_gate else 1.0
                y_D = y_D + gate * ffn.shared(x_D)
            made.append(y_D)
        rows.append(torch.stack(made))
    return torch.stack(rows)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_loops(way: dict[str, Any], trains: bool) -> None:
    ffn = toy(way).double().blocks[0].ffn.train(trains)
    x_BTD = x_of(2, 7).double().requires_grad_()
    weigh = torch.linspace(-1, 1, 32).double()
    found = []
    for y in (ffn(x_BTD)[0], by_loops(ffn, x_BTD, trains)):
        wanted = [x_BTD, *ffn.parameters()]
        found.append([y, *torch.autograd.grad((y * weigh).sum(), wanted, allow_unused=True)])
    for ours, theirs in zip(*found, strict=True):
        ours, theirs = (torch.zeros(()) if each is None else each for each in (ours, theirs))
        torch.testing.assert_close(*torch.broadcast_tensors(ours, theirs), check_dtype=False, **WIDE)


def test_a_row_by_hand() -> None:
    """Two experts, four tokens, one expert on average: each has two."""
    shares_TX = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]])
    logits_BTX = shares_TX.log()[None]
    chosen_BTX = expert_choice_mask(logits_BTX.log_softmax(-1), 1)
    assert chosen_BTX[0].tolist() == [[True, False], [False, True], [False, True], [True, False]]
    assert expert_choice_mask(logits_BTX[:, :3], 1)[0].sum(0).tolist() == [2, 2]  # 1.5, rounded up
    torch.testing.assert_close(
        routing_weights(logits_BTX, chosen_BTX, False)[0], torch.tensor([[0.9, 0], [0, 0.4], [0, 0.3], [0.8, 0]])
    )
    none_BTX = torch.zeros_like(chosen_BTX)
    both_BTX = torch.tensor([[[True, True], [True, False], [False, False], [False, True]]])
    torch.testing.assert_close(
        routing_weights(logits_BTX, both_BTX, True)[0], torch.tensor([[0.9, 0.1], [1, 0], [0, 0], [0, 1.0]])
    )
    assert not routing_weights(logits_BTX, none_BTX, True).any()


def test_who_is_active_by_hand() -> None:
    logits_BTX = torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.1, 0.7]]]).log()
    for active, epsilon, wanted in (
        (2, 0.0, [[1, 1, 0], [1, 0, 1]]),
        (3, 0.25, [[1, 1, 0], [0, 0, 1]]),
        (2, 0.6, [[1, 0, 0], [0, 0, 1]]),  # the likeliest stays
    ):
        assert token_choice_mask(logits_BTX, active, epsilon)[0].int().tolist() == wanted


def test_the_loss_of_a_threshold_is_smallest_where_its_share_is_above_it() -> None:
    scores_BTX = torch.rand(4, 50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0])
    threshold_X = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([threshold_X], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        quantile_loss(scores_BTX, threshold_X, 0.25).backward()
        optimizer.step()
    torch.testing.assert_close(
        (scores_BTX > threshold_X).float().mean((0, 1)), torch.full((2,), 0.25), rtol=0, atol=0.03
    )
    scores_BTX = torch.tensor([[[1.0], [-2.0]]], requires_grad=True)
    by_hand = quantile_loss(scores_BTX, torch.zeros(1, requires_grad=True), 0.25)
    by_hand.backward()
    assert scores_BTX.grad is None
    torch.testing.assert_close(by_hand.detach(), torch.tensor((0.75 * 1 + 0.25 * 2) / 2))


def test_mutual_information_by_hand() -> None:
    sure_BTX = torch.tensor([[[0.0, -80.0], [-80.0, 0.0]]])  # either token its own expert: log 2
    torch.testing.assert_close(information_loss(sure_BTX), -torch.tensor(2.0).log())
    same_BTX = torch.tensor([[[3.0, 1.0], [3.0, 1.0]]]).log()  # a token says nothing of its expert
    torch.testing.assert_close(information_loss(same_BTX), torch.tensor(0.0), rtol=0, atol=1e-6)
    rows_BTX = torch.cat((sure_BTX, sure_BTX[:, [0, 0]]))  # of each row, not of both
    torch.testing.assert_close(information_loss(rows_BTX), -torch.tensor(2.0).log() / 2)
    shares_BTX = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]])
    mean = torch.tensor([0.7, 0.3])
    entropy = -(shares_BTX * shares_BTX.log()).sum(-1).mean() + (mean * mean.log()).sum()
    torch.testing.assert_close(information_loss(shares_BTX.log()), entropy)
    far = torch.tensor([[[0.0, -300.0]]], requires_grad=True)
    information_loss(far).backward()
    assert far.grad is not None and far.grad.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_experts_that_are_held_or_watched_say_the_same(way: dict[str, Any]) -> None:
    for trains in (True, False):
        model, ids = toy(way).train(trains), ids_of(2, 12)
        with torch.no_grad():
            before = model(ids)
            for block in model.blocks:
                block.ffn.experts[1].up.register_forward_pre_hook(lambda *_: None)
            torch.testing.assert_close(model(ids), before, **CLOSE)
        held = toy(way).train(trains)
        held.reparametrize(linears.LoRA(rank=2))
        torch.testing.assert_close(held(ids), before, **CLOSE)


@pytest.mark.parametrize("way", WAYS)
def test_loads_are_equal_in_training_and_losses_do_not_depend_on_how_memory_divides_a_batch(
    way: dict[str, Any],
) -> None:
    model, ids = toy({**way, "balance": 1.0, "router_z": 1.0}).train(), ids_of(4, 9)

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        return model(ids[rows]).square().mean() * ((rows.stop - rows.start) / 4), {}

    found = []
    for positions in (1000, 9):
        model.zero_grad()
        added, _ = backward(with_auxiliary(Batch(4, 9, 36, loss), model), positions)
        found.append({"loss": added, **{n: w.grad for n, w in model.named_parameters() if w.grad is not None}})
    assert found[0].keys() == found[1].keys() and "blocks.1.ffn.router.weight" in found[0]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, **CLOSE, msg=name)


def test_later_tokens_change_a_token_while_experts_choose_and_never_afterwards() -> None:
    """What a loss of training leaves out of sight, said as a test."""
    model, ids = toy(WAYS[0]), ids_of(1, 24)
    changed = ids.clone()
    changed[0, 12:] = ids_of(1, 12, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(model(changed)[:, :12], model(ids)[:, :12], **CLOSE)
        model.train()
        assert not torch.allclose(model(changed)[:, :12], model(ids)[:, :12], **CLOSE)
        torch.testing.assert_close(model(torch.cat((ids, changed)))[:1], model(ids), **CLOSE)  # rows are by themselves


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(WAYS), st.integers(1, 20), st.integers(1, 3))
@torch.no_grad()
def test_an_expert_has_as_many_tokens_as_any_other_in_training(way: dict[str, Any], length: int, rows: int) -> None:
    ffn = toy({**way, "router": "expert_choice", "epsilon": 0.0, "normalised": False}).blocks[0].ffn
    X, A = ffn.part.experts, ffn.part.active
    loads_BX = expert_choice_mask(ffn.router(x_of(rows, length)).softmax(-1), A).sum(1)
    assert (loads_BX == -(-length * A // X)).all()
    y_BTD, loss = ffn.train()(x_of(rows, length))
    assert y_BTD.shape == (rows, length, 32) and loss is not None


def test_a_model_that_trains_goes_on_to_send_tokens_as_it_did() -> None:
    """Thresholds of a short run: as many experts a token as in training, and experts that agree on most tokens."""
    model = toy_model(
        seed=1,
        feed_forward={"name": "experts", "router": "expert_choice", "experts": 4, "active": 2, "normalised": False},
    )
    first = model.blocks[0].ffn.threshold.detach().clone()
    train(model, recipe(), 60, batches(model), Recorder(Path()))
    model.eval()
    ffn = model.blocks[0].ffn
    assert not torch.equal(first, ffn.threshold)
    with torch.no_grad():
        scores_BTX = ffn.router(model.blocks[0].ffn_norm(model.embedding(ids_of(8, 40)), None)[1]).log_softmax(-1)
        there_BTX, then_BTX = scores_BTX > ffn.threshold, expert_choice_mask(scores_BTX, 2)
    assert there_BTX.sum(-1).float().mean() == pytest.approx(2, abs=0.5)
    assert (there_BTX == then_BTX).float().mean() > 0.8


@pytest.mark.parametrize("router", ["expert_choice", "dense"])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(router: str, tmp_path: Path) -> None:
    found = []
    for stops in ([None], [3, None]):
        scratch = tmp_path / str(len(stops))
        for stop_after in stops:
            model = toy_model(
                seed=1,
                feed_forward={"name": "experts", "router": router, "experts": 4, "active": 2, "normalised": False},
            )
            log = Recorder(scratch, stop_after)
            try:
                train(model, recipe(), 6, batches(model), log)
            except Stopped:
                assert stop_after
        found.append(model.state_dict())
    assert all(torch.equal(found[1][name], weight) for name, weight in found[0].items())


def test_routers_train_other_models() -> None:
    weights = []
    for router in ("token_top_k", "expert_choice", "dense"):
        model = toy_model(
            seed=1, feed_forward={"name": "experts", "router": router, "experts": 4, "active": 2, "normalised": False}
        )
        train(model, recipe(), 2, batches(model), Recorder(Path()))
        weights.append(model.blocks[0].ffn.experts[0].up.weight.detach())
    assert not any(torch.equal(*pair) for pair in zip(weights, weights[1:] + weights[:1], strict=True))


def test_compiled_blocks_are_one_graph() -> None:
    """Where experts choose; every router: tests/system/lm/test_compiled_parts.py."""
    compiled_blocks_are_one_graph(WAYS[0])


def compiled_blocks_are_one_graph(way: dict[str, Any]) -> None:
    model = toy_model(feed_forward={"name": "experts", **way})

    def work() -> None:
        (model(ids_of(2, 12)).square().sum() + (model.auxiliary_loss() or 0)).backward()

    for trains in (True, False):
        model.train(trains)
        assert plain_and_compiled(model, work) == 1


def test_what_a_step_of_training_costs_and_what_a_sampler_reads() -> None:
    def costs(router: str) -> tuple[float, int]:
        model = toy_model(
            feed_forward={"name": "experts", "router": router, "experts": 4, "active": 2, "normalised": False}
        )
        return flops_per_token(model, 10), model.num_active()

    one = 3 * 32 * 48
    (tokens, active), (choice, of_choice), (dense, of_dense) = map(costs, ("token_top_k", "expert_choice", "dense"))
    assert choice == tokens and of_choice == active + 2 * 4  # two layers of four thresholds
    assert of_dense == active and dense == tokens + 6 * 2 * 2 * one


def test_rows_that_are_nobodys_are_zeros() -> None:
    rows_MI = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    weights = [torch.randn(4, 3).double().requires_grad_() for _ in range(2)]
    counts_X = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(lambda rows, *some: grouped_product(rows, counts_X, some), (rows_MI, *weights))
    assert not grouped_product(rows_MI, counts_X, weights)[4:].any()


@torch.no_grad()
def test_what_is_trained_densely_is_read_as_tokens_that_choose(tmp_path: Path) -> None:
    model = toy({"router": "dense", "experts": 4, "active": 2}, qk_norm=False)
    save_hf(model, toy_tokenizer(), tmp_path, torch.float32)
    read = load_hf(tmp_path)
    assert read.config.feed_forward.router == "token_top_k"
    torch.testing.assert_close(read(ids_of(2, 9)), model(ids_of(2, 9)), **CLOSE)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"router": "expert_choice", "normalised": False}, "their thresholds"),
        ({"router": "dense", "epsilon": 0.1}, "epsilon 0"),
    ],
)
def test_what_hugging_face_has_not_is_refused_in_one_line(way: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        to_theirs(toy(way).config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"epsilon": 0.1}, "epsilon: leaves out experts of router dense alone"),
        ({"active": 1}, "of which a router learns nothing"),
        ({"router": "expert_choice"}, "normalised: experts that choose tokens .* set it to false"),
        ({"router": "experts"}, "'token_top_k', 'expert_choice' or 'dense'"),
    ],
)
def test_what_cannot_learn_is_refused(way: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Experts(**way)
    assert Experts(router="dense", active=1).trained_otherwise and not Experts().trained_otherwise
