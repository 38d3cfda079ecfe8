"""No two methods of a room are one, and no parameter of a method is none: weights, factors, shares or bytes differ with each."""

import math
from collections.abc import Callable, Hashable
from functools import cache
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from pydantic import Field

from lm import averages, optimizers, schedules
from lm.calibration import LayerInputs
from lm.config import Config, methods_of
from lm.linears.base import roles_of
from lm.model import Decoder, ModelConfig
from lm.schedules.feedback import Feedback
from tasks.quantize import methods as quantizers
from tests.neighbours import assert_all_differ, every_neighbour, neighbours

STEPS = 12
UPDATES = 8  # of a model's weights, each of which takes longer than all that a schedule says
# Where the default and its neighbour, by tests/neighbours.py, cannot be told apart in so little: settings in which the parameter binds
BINDING: dict[str, dict[str, Any]] = {
    "Lamb.max_norm": {"max_norm": 0.5},
    "OneBitAdam.freeze_after": {"freeze_after": 4},
    "Soap.every": {"every": 3},
    "DropMuon.seed": {"whole": 0.2},
    "Lawa.checkpoints": {"checkpoints": 3, "every": 2},
    "Lawa.every": {"checkpoints": 3, "every": 2},
    "Infinite.cooldown_steps": {"cooldown_steps": 4},
    "Infinite.constant_fraction": {"cooldown_steps": 4},
    "Refined.smoothing": {"norms": [1.0, 3.0, 1.0] * 10},
    "Refined.exponent": {"norms": [2.0, 1.0]},
    "Power.knee_steps": {"knee_steps": 3},
    "Power.exponent": {"knee_steps": 3},
    "Accelat.final_fraction": {"least_gain": 0.5, "final_fraction": 0.1},
    "AutoLRS.kappa": {"kappa": 0.5},
}


# Whose work is as long as they say, and shows no less of what its other parameters do when it is short
SHORT: dict[str, dict[str, Any]] = {"LearnedRounding": {"steps": 40}}


def weights_of(method: Config) -> Hashable:
    """Of a small model after UPDATES of them, with a rate and a decay that show."""
    shape = {"vocab_size": 16, "width": 8, "layers": 3, "heads": 2, "kv_heads": 1, "ffn_width": 8, "context": 8}
    model = Decoder(ModelConfig(**shape, tied=False), seed=0)
    optimizer = method.build(list(model.named_parameters()), roles_of(model))
    ids = torch.arange(8)[None]
    for step in range(UPDATES):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (1 - step / 2 / UPDATES)
        optimizer.begin(step)
        optimizer.zero_grad(set_to_none=True)
        (model(ids).log_softmax(-1)[0, :, 3].square().mean() * (1 + step % 3)).backward()
        optimizer.step()
    optimizer.finish()
    return tuple(weight.detach().numpy().tobytes() for weight in model.parameters())


def numbers_of(method: Config) -> Hashable:
    """What a schedule or an average says of the steps of two runs, and of momentum, where it changes that."""
    if isinstance(method, Feedback):
        return tuple(factor for steps in (STEPS, 300) for factor in heard(method, steps))
    found = [method(step, steps) for steps in (STEPS, 300) for step in range(steps)]
    if hasattr(method, "momentum"):
        found += [method.momentum(step, STEPS, 0.95) for step in range(STEPS)]
    return tuple(found)


def heard(method: Feedback, steps: int) -> list[float]:
    """The factors of a schedule whose run falls to a level, the sooner the higher the rate, from a height that a tenth of them
    are best at."""
    follower, found, done = method.follower(steps), [], 0.0
    for step in range(steps):
        factor = follower.factor(step)
        found.append(factor)
        done += 0.1 * factor
        follower.observe(step, 2.0 + 3.0 * math.exp(-done) + (factor - 0.1) ** 2 + 0.01 * math.sin(step))
    return found


def bytes_of(method: Config) -> Hashable:
    """What a matrix is packed to."""
    generator = torch.Generator().manual_seed(0)
    weight_OI, inputs_NI = torch.randn(8, 192, generator=generator), torch.randn(40, 192, generator=generator)
    packed = method(weight_OI, LayerInputs(inputs_NI * torch.linspace(0.1, 3, 192)))
    return packed.dequantize().numpy().tobytes()


ROOMS: list[tuple[ModuleType, Callable[[Config], Hashable]]] = [
    (optimizers, weights_of),
    (schedules, numbers_of),
    (averages, numbers_of),
    (quantizers, bytes_of),
]
NAMES = [room.__name__ for room, _ in ROOMS]


@pytest.mark.parametrize(("room", "made"), ROOMS, ids=NAMES)
def test_methods_of_a_room_differ(room: ModuleType, made: Callable[[Config], Hashable]) -> None:
    # Drop-Muon that drops nothing is Muon, and 1-bit Adam Adam until its variance freezes
    special = {"DropMuon": {"whole": 0.2}, "OneBitAdam": {"freeze_after": 4}}
    special |= SHORT
    found = {method: made(method(**special.get(method.__name__, {}))) for method in methods_of(room)}
    assert len(set(found.values())) == len(found)


KNOBS = [
    pytest.param(method, name, made, id=f"{method.__name__}.{name}")
    for room, made in ROOMS
    for method in methods_of(room)
    for name in method.model_fields
    if name != "name"
]


@pytest.mark.parametrize(("method", "name", "made"), KNOBS)
def test_a_parameter_of_a_method_counts(method: type[Config], name: str, made: Callable[[Config], Hashable]) -> None:
    base = method(**SHORT.get(method.__name__, {}), **BINDING.get(f"{method.__name__}.{name}", {}))
    before = of_base(made, type(base), base.model_dump_json())
    for tries in neighbours(base, name):
        assert any(made(other) != before for other in tries)


@cache
def of_base(made: Callable[[Config], Hashable], method: type[Config], settings: str) -> Hashable:
    """What a method makes from which its neighbours differ: most of its parameters ask of the same."""
    return made(method.model_validate_json(settings))


class Heard(Config):
    """A method whose factor counts from 2 on, and whose offset counts for nothing."""

    name: Literal["heard"] = "heard"
    kind: Literal["a", "b", "c"] = "b"
    factor: float = Field(1.0, gt=0)
    offset: int = Field(3, ge=3)
    files: str = "all"

    def made(self) -> Hashable:
        return self.kind, max(self.factor, 2.0)


def test_every_value_near_a_parameter_is_tried_and_one_that_counts_suffices() -> None:
    heard = Heard()
    tried = {name: neighbours(heard, name) for name in ("kind", "factor", "offset")}
    values = {name: [[getattr(other, name) for other in some] for some in found] for name, found in tried.items()}
    assert values == {"kind": [["a"], ["c"]], "factor": [[0.75, 0.25, 1.1, 4.0]], "offset": [[4, 6]]}
    with pytest.raises(AssertionError, match=r"Heard\.files: .* knows no other value"):
        every_neighbour((Heard,))

    def made(changes: dict[str, Any]) -> Hashable:
        return changes.get("method", heard).made()

    told = {name: [[{"method": other} for other in some] for some in found] for name, found in tried.items()}
    assert_all_differ(made, told["kind"] + told["factor"])
    with pytest.raises(AssertionError, match="is what is made without changes"):
        assert_all_differ(made, told["offset"])
