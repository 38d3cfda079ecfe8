"""Rates and memories of roles: beside torch's AdamW in groups, over every optimizer that has them, and none that is asked for."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm import optimizers
from lm.config import Config, methods_of
from lm.linears.base import Role, Roles, rates_of, roles_of
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW, Lion, Muon, NorMuon
from lm.optimizers.base import with_rates
from lm.optimizers.by_role import ByRole

METHODS = [method for method in methods_of(optimizers) if issubclass(method, ByRole)]
FIELDS: dict[str, Role] = {"embedding": "table", "head": "output", "vectors": "vector"}
SHAPES: dict[str, tuple[int, ...]] = {"embedding": (11, 6), "blocks.0.up": (8, 6), "norm": (60,), "head": (11, 6)}
ROLES: Roles = {"embedding": "table", "blocks.0.up": "matrix", "norm": "vector", "head": "output"}
STEPS = 4


def weights() -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in SHAPES.items()]


def updated(optimizer: torch.optim.Optimizer, named: list[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The weights after STEPS updates by the same gradients."""
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + step)
        for _, weight in named:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in named}


def trained(method: Config) -> dict[str, Tensor]:
    named = weights()
    return updated(method.build(named, ROLES), named)


def test_adamw_lion_and_the_kinds_of_muon_have_them() -> None:
    assert {AdamW, Lion, Muon, NorMuon} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(("field", "key"), list(product(FIELDS, ["lr", "beta1", "beta2"])))
def test_only_weights_of_the_role_learn_otherwise(method: type[Config], field: str, key: str) -> None:
    plain, other = trained(method()), trained(method.model_validate({field: {key: 0.37}}))
    differ = {ROLES[name] for name in plain if not torch.equal(plain[name], other[name])}
    assert differ == {FIELDS[field]}


@pytest.mark.parametrize("method", [AdamW, Muon])
def test_groups_of_torch_adamw_learn_the_same(method: type[Config]) -> None:
    """What Muon leaves to AdamW, and all that AdamW itself updates; rates, and both memories."""
    own = {"embedding": (0.3, 0.7, 0.99), "head": (0.004, 0.5, 0.8), "vectors": (0.05, 0.0, 0.9)}
    given: dict[str, Any] = {
        name: {"lr": lr, "beta1": beta1, "beta2": beta2} for name, (lr, beta1, beta2) in own.items()
    }
    mine, named = trained(method.model_validate(given)), dict(weights())
    groups = [
        {"params": [weight], "lr": lr, "betas": (beta1, beta2), "weight_decay": 0.1 * (name != "vectors")}
        for (name, (lr, beta1, beta2)), weight in zip(
            own.items(), (named["embedding"], named["head"], named["norm"]), strict=True
        )
    ]
    groups += [{"params": [named["blocks.0.up"]], "lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}]
    theirs = updated(torch.optim.AdamW(groups, eps=1e-8, foreach=False), list(named.items()))
    for name, weight in theirs.items():
        if method is AdamW or ROLES[name] != "matrix":
            torch.testing.assert_close(mine[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "groups"), [(AdamW, 2), (Lion, 2), (Muon, 3), (NorMuon, 3)])
def test_no_settings_are_no_groups_of_their_own(method: type[Config], groups: int) -> None:
    assert len(method().build(weights(), ROLES).param_groups) == groups
    with_head = method.model_validate({"head": {"lr": 0.1}}).build(weights(), ROLES)
    assert len(with_head.param_groups) == groups + 1
    rates = [group["lr"] for group in with_head.param_groups]
    assert rates == [group["base_lr"] for group in with_head.param_groups] and rates.count(0.1) == 1
    assert with_head.param_groups[0]["lr"] == method().lr  # of the first group the rate is told


def test_a_layers_own_factor_is_of_the_roles_rate() -> None:
    named = weights()
    optimizer = with_rates(AdamW.model_validate({"head": {"lr": 0.1}}).build(named, ROLES), named, {"head": 4.0})
    (group,) = (group for group in optimizer.param_groups if group["params"][0] is dict(named)["head"])
    assert group["lr"] == group["base_lr"] == pytest.approx(0.4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_says_which_weights_these_are(tied: bool) -> None:
    shape = {"vocab_size": 16, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_width": 8, "context": 8}
    model = Decoder(ModelConfig(**shape, tied=tied), seed=0)
    named = list(model.named_parameters())
    optimizer = AdamW.model_validate({"head": {"lr": 0.1}}).build(named, roles_of(model))
    heads = [group["params"] for group in optimizer.param_groups if group["lr"] == 0.1]
    assert heads == ([] if tied else [[model.head.weight]])
    assert rates_of(model) == {}


@pytest.mark.parametrize("given", [{"lr": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"rate": 1.0}])
def test_what_cannot_be_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"head.{next(iter(given))}"):
        AdamW.model_validate({"head": given})
    assert ByRole().settings() == {}
