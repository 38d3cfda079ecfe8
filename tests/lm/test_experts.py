"""Experts by hand, against loops over tokens, and against the losses that transformers has of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from lm import linears
from lm.calibration import collect_layer_inputs
from lm.feed_forwards import Experts
from lm.feed_forwards.experts import RoutedExperts, balance_loss, logit_loss, top_experts
from lm.feed_forwards.grouped import grouped_product
from lm.feed_forwards.routing import wide_product
from lm.hugging_face.adapters import save_adapter
from lm.hugging_face.export import save_hf
from lm.hugging_face.load import load_hf
from lm.hugging_face.merge import merge
from lm.model import Decoder
from lm.training.batch import Batch, Metrics, backward, with_auxiliary
from lm.training.flops import flops_per_token
from tests.lm.made_parts import CLOSE, decided, ids_of, stirred
from tests.lm.models import toy_model, toy_tokenizer

WAYS: list[dict[str, Any]] = [
    {"experts": 4, "active": 2},
    {"experts": 5, "active": 1, "normalised": False},
    {"experts": 6, "active": 3, "normalised": False, "shared": 2},
    {"experts": 3, "active": 3, "shared": 1, "shared_gate": True, "width": 20},
]
WIDE = {"rtol": 1e-10, "atol": 1e-12}


def toy(way: dict[str, Any], **shape: Any) -> Decoder:
    return decided({"feed_forward": {"name": "experts", **way}, **shape})


def by_token(ffn: RoutedExperts, x_ND: Tensor) -> Tensor:
    """y_ND as the papers write it: a sum over the experts of each token."""
    found = []
    for x_D in x_ND:
        probabilities_X = (ffn.router.weight @ x_D).softmax(0)
        best = sorted(range(len(ffn.experts)), key=lambda index: -probabilities_X[index].item())[: ffn.part.active]
        total = sum(probabilities_X[index] for index in best) if ffn.part.normalised else 1.0
        y_D = sum(probabilities_X[index] / total * ffn.experts[index](x_D) for index in best)
        if ffn.part.shared:
            gate = torch.sigmoid(ffn.shared_gate.weight[0] @ x_D) if ffn.part.shared_gate else 1.0
            y_D = y_D + gate * ffn.shared(x_D)
        found.append(y_D)
    return torch.stack(found)


@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_a_loop_over_tokens(way: dict[str, Any]) -> None:
    ffn = toy(way).double().blocks[0].ffn
    x_BTD = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    weigh = torch.linspace(-1, 1, 32).double()
    found = []
    for y in (ffn(x_BTD)[0], by_token(ffn, x_BTD.flatten(0, 1)).view(2, 7, 32)):
        wanted = [x_BTD, *ffn.parameters()]
        found.append([y, *torch.autograd.grad((y * weigh).sum(), wanted, allow_unused=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, **WIDE)


def test_weights_of_a_token_by_hand() -> None:
    logits_NX = torch.tensor([[0.0, 2.0, 1.0]]).log()  # probabilities 0, 2/3, 1/3
    for normalised, active, wanted in ((True, 2, [[2 / 3, 1 / 3]]), (False, 1, [[2 / 3]])):
        weights_NA, experts_NA = top_experts(logits_NX, active, normalised)
        torch.testing.assert_close(weights_NA, torch.tensor(wanted))
        assert experts_NA[0].tolist() == [1, 2][:active]
    uneven_NX = torch.tensor([[1.0, 3.0, 4.0]]).log()
    torch.testing.assert_close(top_experts(uneven_NX, 2, True)[0], torch.tensor([[4 / 7, 3 / 7]]))
    torch.testing.assert_close(top_experts(uneven_NX, 2, False)[0], torch.tensor([[4 / 8, 3 / 8]]))


def test_losses_by_hand() -> None:
    """One row of two tokens, probabilities 3/4 and 1/4: both choose the first, 2 (1 x 3/4 + 0 x 1/4)."""
    logits_BTX = torch.tensor([[[3.0, 1.0], [3.0, 1.0]]]).log()
    first, both = torch.zeros(1, 2, 1, dtype=torch.int64), torch.tensor([[[0, 1], [0, 1]]])
    torch.testing.assert_close(balance_loss(logits_BTX, first), torch.tensor(1.5))
    torch.testing.assert_close(balance_loss(logits_BTX, both), torch.tensor(1.0))
    torch.testing.assert_close(logit_loss(logits_BTX), torch.tensor(4.0).log() ** 2)


@pytest.mark.parametrize(("experts", "active"), [(4, 1), (6, 2), (5, 5)])
def test_the_balance_of_a_row_is_that_of_transformers_over_its_choices(experts: int, active: int) -> None:
    logits_BTX = torch.randn(3, 8, experts, generator=torch.Generator().manual_seed(0))
    _, chosen_BTA = top_experts(logits_BTX, active, True)
    rows = [load_balancing_loss_func((row,), experts, active) / active for row in logits_BTX]
    torch.testing.assert_close(balance_loss(logits_BTX, chosen_BTA), torch.stack(rows).mean())


def test_a_layer_weighs_its_losses_and_has_none_beside_training() -> None:
    x_BTD = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for balance, router_z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.25)):
        ffn = toy({"balance": balance, "router_z": router_z}).blocks[0].ffn
        assert ffn(x_BTD)[1] is None
        found[balance, router_z] = ffn.train()(x_BTD)[1]
    assert found.pop((0.0, 0.0)) is None
    torch.testing.assert_close(found[0.5, 0.25], 0.5 * found[1.0, 0.0] + 0.25 * found[0.0, 1.0])
    assert found[1.0, 0.0] != found[0.0, 1.0]


def test_losses_do_not_depend_on_how_memory_divides_a_batch() -> None:
    model = toy({"experts": 4, "active": 2, "balance": 1.0, "router_z": 1.0}).train()
    ids = ids_of(4, 9)

    def loss(rows: slice) -> tuple[Tensor, Metrics]:
        return 0.0 * model(ids[rows]).sum(), {}

    found = []
    for positions in (1000, 9):
        model.zero_grad()
        added, _ = backward(with_auxiliary(Batch(4, 9, 36, loss), model), positions)
        found.append((added, model.blocks[0].ffn.router.weight.grad))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0] > 0 and found[0][1].abs().max() > 0


@pytest.mark.parametrize("way", WAYS)
def test_experts_that_are_held_or_watched_say_the_same(way: dict[str, Any]) -> None:
    model, ids = toy(way), ids_of(2, 12)
    with torch.no_grad():
        before = model(ids)
        names = [name for name, _ in model.blocks.named_parameters() if "ffn." in name and "norm" not in name]
        seen = collect_layer_inputs(
            model, [f"blocks.{name}" for name in names], [(ids, torch.ones(2, 12, dtype=torch.bool))]
        )
        assert {len(inputs.rows_NI) for inputs in seen.values()} == {24}
        torch.testing.assert_close(model(ids), before, rtol=0, atol=0)
        for block in model.blocks:
            block.ffn.experts[1].up.register_forward_pre_hook(lambda *_: None)
        torch.testing.assert_close(model(ids), before, **CLOSE)
    held = toy(way)
    held.reparametrize(linears.LoRA(rank=2))
    torch.testing.assert_close(held(ids), before, **CLOSE)
    (held(ids) * torch.linspace(-1, 1, 261)).sum().backward()
    assert held.blocks[0].ffn.router.up.grad.abs().max() > 0
    assert held.blocks[0].ffn.experts[0].down.weight.grad is None


class Operators(TorchDispatchMode):
    """Names of the operators that run, one for each time."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_product_is_made_for_weights_that_stay() -> None:
    """Adapters of attention alone: gradients go back through the experts, and none is made of theirs."""
    ids, made = ids_of(2, 12), []
    for matrices in (["attention"], []):
        model = toy({"experts": 4, "active": 2})
        if matrices:
            model.reparametrize(linears.LoRA(rank=2, matrices=matrices))
        with Operators() as operators:
            model(ids).square().sum().backward()
        made.append([operators.names.count(f"tokenmill.grouped_{what}.default") for what in ("products", "gradients")])
        assert model.blocks[0].attention.query.weight.grad is None or not matrices
    assert made == [[12, 0], [12, 6]]  # of 2 layers, forward and backward through 3 matrices


@torch.no_grad()
def test_an_adapter_of_experts_is_merged_into_a_folder_of_mixtral(tmp_path: Path) -> None:
    model = toy({"experts": 4, "active": 2}, qk_norm=False)
    save_hf(model, toy_tokenizer(), tmp_path / "theirs", torch.float32)
    before = model(ids_of(1, 9))
    model.reparametrize(linears.LoRA(rank=2, matrices=["experts"], keep=True))
    for layer in model.held.values():
        layer.up.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    model.merge()
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model.artifact, model.config)
    assert merge(tmp_path / "theirs", tmp_path / "adapter", tmp_path / "merged") == 2 * 4 * 3
    wanted = model(ids_of(1, 9))
    torch.testing.assert_close(load_hf(tmp_path / "merged")(ids_of(1, 9)), wanted, **CLOSE)
    assert not torch.allclose(wanted, before, **CLOSE)


def test_grouped_products_have_exact_gradients_whatever_the_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_MI = torch.randn(6, 3, generator=generator).double().requires_grad_()
    weights = [torch.randn(4, 3, generator=generator).double().requires_grad_() for _ in range(4)]
    for counts in ([2, 0, 3, 1], [6, 0, 0, 0], [0, 0, 0, 6]):
        counts_X = torch.tensor(counts)

        def product(rows: Tensor, *some: Tensor, counts_X: Tensor = counts_X) -> Tensor:
            return grouped_product(rows, counts_X, some)

        assert torch.autograd.gradcheck(product, (rows_MI, *weights))
        by_row = torch.repeat_interleave(torch.stack(weights), counts_X, 0)
        torch.testing.assert_close(
            grouped_product(rows_MI, counts_X, weights), (by_row @ rows_MI[..., None])[..., 0], **WIDE
        )


def test_the_same_bits_again() -> None:
    found = []
    for _ in range(2):
        model = toy({"experts": 4, "active": 2}).train()
        (model(ids_of(3, 20)).square().mean() + model.auxiliary_loss()).backward()
        found.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_token_in_bf16_goes_through_the_experts_that_a_sampler_takes_it_through() -> None:
    """A sampler's weights are bf16 already; the logits are neither rounded here nor there."""
    model = toy({"experts": 8, "active": 2})
    rounded = stirred(toy_model(seed=3, feed_forward={"name": "experts"})).eval()
    x_BTD = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(0))
    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = [wide_product(one.blocks[0].ffn.router, x_BTD) for one in (model, rounded)]
        made = [one.blocks[0].ffn(x_BTD)[0] for one in (model, rounded)]
    assert torch.equal(*logits) and logits[0].dtype == torch.float32 and torch.equal(*made)
    assert not torch.equal(logits[0], logits[0].bfloat16().float())


def test_what_a_token_meets_by_hand() -> None:
    """6 experts of 20, 2 for a token, one of 20 beside them, and a router of 6 x 32; matrices of an expert 3 x 32 x 20."""
    model = toy({"experts": 6, "active": 2, "shared": 1, "width": 20}, layers=1)
    plain = toy_model(layers=1)
    assert model.num_parameters() == plain.num_parameters() - 3 * 32 * 48 + 7 * 3 * 32 * 20 + 6 * 32
    assert model.num_active() == model.num_parameters() - 4 * 3 * 32 * 20
    saved = 6 * (3 * 32 * 48 - 3 * 3 * 32 * 20 - 6 * 32)
    assert flops_per_token(model, 10) == pytest.approx(flops_per_token(plain, 10) - saved, rel=1e-12)
    dense, active = flops_per_token(model, 0), model.num_active()
    model.reparametrize(
        linears.LoRA(rank=1)
    )  # no gradients of what stays: 2 of 6 FLOP a weight, less those of the thin matrices
    assert dense - 2 * active < flops_per_token(model, 0) < dense


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"experts": 2, "active": 3}, "active: 3 of 2 experts: take as many at most"),
        ({"active": 1}, "one expert's weight is always 1, of which a router learns nothing: normalised: false"),
        ({"shared_gate": True}, "shared_gate: there is no shared expert: shared: 1"),
        ({"experts": 1}, "greater than 1"),
    ],
)
def test_what_cannot_learn_is_refused(way: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Experts(**way)
