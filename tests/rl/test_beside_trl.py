"""Losses of preferences and policies, and their gradients, beside those of TRL's own trainers (trl_figures.py), to 1e-5."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lm.config import Config, methods_of
from tasks.preference import losses as preferences
from tasks.preference.losses.base import Logps
from tasks.rl import losses as policies
from tasks.rl.losses import OnlineDpo
from tests.rl.trl_figures import POLICIES, read

FIGURES = read()
X = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in FIGURES["inputs"].items()}
PREFERENCES = sorted(FIGURES["preferences"])
MOST = {"rtol": 1e-5, "atol": 1e-6}  # ORPO's are fp32 there; of the others float64's rounding is all


def made(room: Any, parameters: dict[str, Any]) -> Config:
    (kind,) = [method for method in methods_of(room) if method.model_fields["name"].default == parameters["name"]]
    return kind(**parameters)


def assert_same(found: Tensor, logp_RT: Tensor, wanted: dict[str, Any]) -> None:
    """The loss, and its gradient by these log-probabilities; what is outside of the mask has none."""
    found.backward()
    assert logp_RT.grad is not None
    torch.testing.assert_close(found.detach(), torch.tensor(wanted["loss"], dtype=torch.float64), **MOST)
    torch.testing.assert_close(logp_RT.grad, torch.tensor(wanted["gradient"], dtype=torch.float64), **MOST)


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences(name: str) -> None:
    wanted = FIGURES["preferences"][name]
    logp = X["logp"].clone().requires_grad_()
    tokens = X["mask"].sum(1).chunk(2)
    given = Logps(
        *(logp * X["mask"]).sum(1).chunk(2), *X["reference"].sum(1).chunk(2), *tokens, point=wanted.get("point", 0.0)
    )
    method = made(preferences, {"name": name, **wanted["method"]})
    assert_same(method(given)[0].mean(), logp, wanted)


def test_the_point_of_kto_is_what_trl_makes_of_crossed_answers() -> None:
    """As the stage computes it: the mean log-ratio over answers behind other prompts, and 0 where that is negative."""
    point = max(0.0, (X["crossed"] - X["reference_crossed"]).mean().item())
    assert FIGURES["preferences"]["kto"]["point"] == pytest.approx(point) and point > 0


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name: str) -> None:
    wanted = FIGURES["policies"][name]
    assert wanted["method"] == POLICIES[name][1]
    method: Any = made(policies, wanted["method"])
    logp = X["logp"].clone().requires_grad_()
    weights = method.weights(X["mask"], FIGURES["longest"])
    reference = X["reference"] if method.needs_reference else None
    loss, metrics = method.compute(logp, X["old"], X["advantages"][:, None], weights, reference)
    # CISPO's value is the same too: its terms are held ratios times logp
    assert 0 < metrics["clip_fraction"] < 1, "no clip binds"
    assert_same(loss, logp, wanted)


def test_online_preferences_are_dpo_of_the_pairs() -> None:
    """TRL's figure for DPO, of the same pairs as a policy's own answers stand: the two of each beside each other."""
    wanted = FIGURES["preferences"]["dpo"]
    order = torch.arange(len(X["logp"])).view(2, -1).T.flatten()
    logp = X["logp"].clone().requires_grad_()
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(order) // 2)[:, None]
    method = OnlineDpo(beta=wanted["method"]["beta"])
    weights = method.weights(X["mask"][order], FIGURES["longest"])
    assert_same(method.compute(logp[order], logp[order], signs, weights, X["reference"][order])[0], logp, wanted)


def test_it_says_which_trl_it_was() -> None:
    assert FIGURES["trl"].count(".") == 2
    assert set(PREFERENCES) == {"dpo", "ipo", "kto", "simpo", "orpo"}
