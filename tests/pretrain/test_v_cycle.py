"""The growth v_cycle: its steps and groups by hand, what counts, what is refused, and what is said before it runs. Its way down
and up is in tests/lm/test_v_cycle.py."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.forecast.dry_run import dry_run_step
from lm.config import ConfigError
from lm.depth import Coalesced, Depth, Interpolated
from lm.model import ModelConfig
from lm.training.flops import flops_per_token
from lm.training.v_cycle import saved_weight_bytes
from tasks.about.sections import Sections
from tasks.core.config import load
from tasks.pretrain.contracts import grows
from tasks.pretrain.growths import VCycle
from tasks.pretrain.growths.v_cycle import groups_of
from tasks.pretrain.needs import needs
from tasks.pretrain.stage import PretrainConfig
from tasks.pretrain.toy import toy
from tests.lm.models import toy_model
from tests.neighbours import assert_all_differ, neighbours
from tests.pretrain.test_growths import SHAPE, WINDOWS, of_settings, params, work_of

PAIRS = ((0, 1), (2, 3))


def test_groups_are_neighbours() -> None:
    assert groups_of(2, 4) == PAIRS and groups_of(1, 3) == ((0, 1, 2),) and groups_of(2, 5) == ((0, 1, 2), (3, 4))
    assert groups_of(3, 4) == ((0, 1), (2,), (3,))


def test_a_run_by_hand() -> None:
    method = VCycle(initial=0.1, until=0.4, alpha=0.5)
    assert [method.depth(4, step, 20) for step in range(20)] == [
        *[None] * 2, *[Depth((0, 2), (1.0, 1.0))] * 6, *[None] * 12,
    ]  # fmt: skip
    found = {step: changes for step in range(20) if (changes := method.grown(4, step, 20))}
    assert found == {2: [Coalesced(PAIRS)], 8: [Interpolated(PAIRS, 0.5)]}
    assert VCycle(layers=3).depth(4, 1, 20) == Depth((0, 2, 3), (1.0,) * 3)
    assert VCycle().grown(4, 0, 1) == [Coalesced(PAIRS), Interpolated(PAIRS, 0.25)] and VCycle().depth(4, 0, 1) is None


@given(st.integers(2, 9), st.integers(1, 60), st.integers(0, 18), st.integers(1, 19))
def test_what_goes_down_comes_up_and_the_last_step_is_of_the_whole(
    layers: int, steps: int, first: int, more: int
) -> None:
    method = VCycle(initial=first / 20, until=min(first + more, 19) / 20)
    kinds, down = [], False
    for step in range(steps):
        for change in method.grown(layers, step, steps):
            kinds.append(type(change))
            down = isinstance(change, Coalesced)
        assert (method.depth(layers, step, steps) is not None) == down
    assert kinds == [Coalesced, Interpolated] and not down
    assert sorted(layer for group in method.groups(layers) for layer in group) == list(range(layers))


def test_every_parameter_counts() -> None:
    settings = {"layers": 3, "initial": 0.2, "until": 0.5, "alpha": 0.5}
    base = VCycle.model_validate(settings)
    tries = [[few.model_dump() for few in each] for name in settings for each in neighbours(base, name)]
    assert_all_differ(of_settings(VCycle, settings), tries)


@pytest.mark.parametrize(
    ("method", "shape", "said"),
    [
        (VCycle(), ModelConfig(layers=1), "pretrain.growth: a model of one layer has none to coalesce: use whole"),
        (VCycle(layers=4), SHAPE, "pretrain.growth.layers: 4 layers, and the whole model has 4: give fewer"),
        (VCycle(), WINDOWS, "pretrain.growth: layer 1 would be averaged with layer 0, whose mixer"),
    ],
)
def test_models_that_cannot_be_averaged_are_refused_in_a_line(method: Any, shape: ModelConfig, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        method.check(shape)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    VCycle().check(SHAPE)


def test_a_cycle_without_a_step_is_refused_and_preflight_says_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="initial: 0.5 is no less than until, 0.5: no step is left"):
        load("pretrain", PretrainConfig, params("pretrain.growth={name: v_cycle, initial: 0.5}"))
    with pytest.raises(ConfigError, match="growth: a model that grows begins with random weights"):
        load("pretrain", PretrainConfig, params("pretrain.growth={name: v_cycle}", "pretrain.start={name: stacked}"))
    given_ = params("pretrain.growth={name: v_cycle, layers: 6}", "pretrain.model.layers=6")
    (finding,) = grows(Sections(given_))
    assert str(finding).startswith(
        "params.yaml: pretrain.growth.layers: 6 layers, and the whole model has 6: give fewer"
    )
    fits = params("pretrain.growth={name: v_cycle, layers: 4}", "pretrain.model.layers=6")
    assert list(grows(Sections(fits))) == []
    small = toy(fits, Path())
    assert small["growth"] == {**fits["pretrain"]["growth"], "layers": 0}
    made = load("pretrain", PretrainConfig, {**fits, "pretrain": {**fits["pretrain"], **small}})
    made.growth.check(made.model)


def test_the_forecast_counts_the_layers_that_take_part_and_holds_what_is_set_aside() -> None:
    growth, sizes = (
        "pretrain.growth={name: v_cycle, initial: 0.25, until: 0.5}",
        ("pretrain.model.layers=4", "curriculum.tokens=40960"),
    )
    whole, work = work_of(*sizes), work_of(*sizes, growth)
    plain, found = (dry_run_step(each.step, each.recipe, each.steps, 10**9, False) for each in (whole, work))
    two, four = (toy_model(**{**work.shape.model_dump(), "layers": n}) for n in (2, 4))
    length = work.step().batch.length
    assert work.steps % 4 == 0
    assert found.flops == pytest.approx((flops_per_token(two, length) + 3 * flops_per_token(four, length)) / 4)
    aside = saved_weight_bytes(four, VCycle(), work.steps)
    assert aside == 4 * two.num_parameters()
    assert found.state_bytes == plain.state_bytes + aside and found.step_bytes >= plain.step_bytes + aside
    disk = [needs(Sections(params(*sizes, *words))).scratch or 0.0 for words in ((), (growth,))]
    assert disk[1] == disk[0] + 2 * aside
