"""Growths of the model within pretraining: stages and draws beside hand and formula, the stage itself, and what is said before."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.forecast.dry_run import rehearse
from flows.forecast.forecasts import told_of, works_of
from flows.params.compose import compose
from lm.averages import Last
from lm.checkpoint import load_model
from lm.config import Config, ConfigError, methods_of
from lm.depth import Depth, Grown
from lm.model import ModelConfig
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.flops import flops_per_token
from lm.training.growing import Growing
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.training.trunks.chain import digest_of
from tasks.about.sections import Sections
from tasks.about.work import Work
from tasks.core.config import load
from tasks.core.log import Log
from tasks.pretrain import growths, starts
from tasks.pretrain.contracts import grows
from tasks.pretrain.growths import Apollo, Staged
from tasks.pretrain.growths.apollo import low_value
from tasks.pretrain.growths.base import Growth, added_layers, copied_from
from tasks.pretrain.stage import PretrainConfig
from tasks.pretrain.stage import run as pretrain
from tasks.pretrain.toy import toy
from tasks.tokenize import methods as tokenizers
from tests.lm.models import toy_model
from tests.lm.test_training import batches
from tests.neighbours import assert_all_differ, neighbours
from tests.pretrain.test_stage import curve
from tests.pretrain.test_stage import pretrain as stage_of
from tests.pretrain.test_starts import Losses, checkpoint, config, data_of  # noqa: F401 - a fixture
from tests.project import ROOT
from tests.tiny import Tiny

METHODS: Any = [method for method in methods_of(growths) if issubclass(method, Growth)]
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
RECIPE = Recipe(optimizer=AdamW(lr=0.01), schedule=Cosine(), average=Last())


def stages(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"layers": layers, "until": until} for layers, until in pairs]


def of_settings(method: type[Config], settings: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """The weights after a short run of a model of six layers, with changes to these settings."""

    def made(changes: dict[str, Any]) -> Any:
        model = toy_model(seed=1, layers=6, width=16, ffn_width=16)
        growth = method.model_validate({**settings, **changes})
        train(model, RECIPE, 10, batches(model), Log(), components=[Growing(growth)] if growth.grows else [])
        return tuple(weight.detach().numpy().tobytes() for weight in model.parameters())

    return made


# Settings in which all parameters bind: copies have two layers to be made of
BINDING: dict[str, dict[str, Any]] = {
    "staged": {"stages": stages((2, 0.3), (4, 0.6)), "ramp": 0.2, "alone": 0.1},
    "apollo": {"stages": stages((2, 0.7))},
}


@EVERY
def test_every_parameter_counts(method: Any) -> None:
    base = method.model_validate(BINDING[method.model_fields["name"].default])
    names = [name for name in method.model_fields if name not in ("name", "stages")]
    tries = [
        [other.model_dump(include=set(names)) for other in few] for name in names for few in neighbours(base, name)
    ]
    tries += [[{"stages": stages((2, 0.8))}], [{"stages": stages((3, 0.7))}], [{"stages": []}]]
    if method is Staged:  # one that stays need not end before another stage does
        tries[-3:] = [
            [{"stages": stages((2, 0.2), (4, 0.6))}],
            [{"stages": stages((3, 0.3), (4, 0.6))}],
            [{"stages": []}],
        ]
    assert_all_differ(of_settings(method, base.model_dump()), tries)


def test_methods_differ() -> None:
    found = {method: of_settings(method, {})({}) for method in methods_of(growths)}
    assert len(set(found.values())) == len(found) == 4


@EVERY
@given(st.integers(2, 9), st.integers(1, 60), st.data())
def test_growths_follow_on_each_other_and_the_last_step_is_of_the_whole(
    method: Any, layers: int, steps: int, data: st.DataObject
) -> None:
    counts = sorted(data.draw(st.sets(st.integers(1, layers - 1), max_size=3)))
    ends = sorted(data.draw(st.sets(st.integers(1, 19), min_size=len(counts), max_size=len(counts))))
    given_ = {"stages": stages(*((count, end / 20) for count, end in zip(counts, ends, strict=True)))}
    if method is Staged:
        given_ |= {"ramp": data.draw(st.sampled_from([0.0, 0.05])), "alone": data.draw(st.sampled_from([0.0, 0.05]))}
        given_ |= {"new_layers": data.draw(st.sampled_from(["copied", "random"]))}
        if ends and ends[-1] == 19:
            given_ |= {"ramp": 0.0, "alone": 0.0}
    made = method.model_validate({**given_, "place": data.draw(st.sampled_from(["on_top", "between"]))})
    there, alive = made.stages_of(layers)[0].layers, set(range(layers))
    for step in range(steps):
        for growth in made.grown(layers, step, steps):
            assert len(growth.sources) > there
            assert set(range(there)) <= set(growth.sources) <= alive  # nothing that was learned is lost
            there = len(growth.sources)
        depth = made.depth(layers, step, steps)
        blocks = tuple(range(layers)) if depth is None else depth.blocks
        assert set(blocks) <= set(range(there)) and len(blocks) <= layers
        assert depth is None or (len(depth.shares) == len(blocks) and all(0 < share <= 1 for share in depth.shares))
        # of the layers of a stage all take part, but those whose mask is 0 in the step in which they come in
        missing = set(range(there)) - set(blocks)
        assert not missing or (step and (made.depth(layers, step - 1, steps) != depth or method is Staged))
    assert made.depth(layers, steps - 1, steps) is None and there == layers


def test_stages_by_hand() -> None:
    method = Staged.model_validate({"stages": stages((2, 0.2), (3, 0.5)), "ramp": 0.2, "alone": 0.1})
    found = [method.depth(6, step, 20) for step in range(20)]
    assert found[:4] == [Depth((0, 1), (1.0, 1.0))] * 4
    assert found[4] == Depth((0, 1), (1.0, 1.0), frozenset({0, 1}))
    assert found[5] == Depth((0, 1, 2), (1.0, 1.0, 0.25), frozenset({0, 1}))
    assert found[6:8] == [Depth((0, 1, 2), (1.0, 1.0, share)) for share in (0.5, 0.75)]
    assert found[8:10] == [Depth((0, 1, 2), (1.0,) * 3)] * 2
    assert found[13] == Depth((0, 1, 2, 3, 4, 5), (1.0, 1.0, 1.0, 0.75, 0.75, 0.75))
    assert found[14:] == [None] * 6
    grown = {step: made for step in range(20) if (made := method.grown(6, step, 20))}
    assert grown == {4: [Grown((0, 1, 1))], 10: [Grown((0, 1, 2, 0, 1, 2))]}
    between = method.model_copy(update={"place": "between", "moments": "fresh"})
    assert between.grown(6, 4, 20) == [Grown((0, 0, 1), frozenset({1}))]
    assert between.depth(6, 4, 20) == Depth((0, 2), (1.0, 1.0), frozenset({0, 2}))
    assert between.grown(6, 10, 20) == [Grown((0, 0, 1, 1, 2, 2), frozenset({1, 3, 5}))]
    fresh = between.model_copy(update={"new_layers": "random"})
    assert fresh.grown(6, 10, 20) == [Grown((0, 3, 1, 4, 2, 5), frozenset({1, 3, 5}))]
    assert fresh.model_copy(update={"place": "on_top"}).grown(6, 4, 20) == [Grown((0, 1, 2), frozenset({2}))]


def test_stages_that_are_not_given_are_a_quarter_and_a_half() -> None:
    said = {layers: [(one.layers, one.until) for one in Staged().stages_of(layers)] for layers in (2, 3, 4, 6, 24)}
    assert said == {
        2: [(1, 0.5)], 3: [(1, 0.5)], 4: [(1, 0.25), (2, 0.5)], 6: [(1, 0.25), (3, 0.5)], 24: [(6, 0.25), (12, 0.5)],
    }  # fmt: skip


def test_copies_by_hand() -> None:
    assert copied_from(2, 5, "on_top") == [0, 1, 0, 1, 1] and copied_from(2, 5, "between") == [0, 0, 0, 1, 1]
    assert copied_from(3, 3, "on_top") == copied_from(3, 3, "between") == [0, 1, 2]
    assert added_layers([0, 0, 0, 1, 1]) == [1, 2, 4] and added_layers([0, 1, 0, 1, 1]) == [2, 3, 4]


@given(st.fractions(0, 1), st.fractions(1, 12))
def test_a_depth_is_on_the_hyperbola_through_its_two_ends(x: Fraction, ratio: Fraction) -> None:
    """Solved in fractions of (0, ratio + 0.4) and (1, 0.6), from the third number, the root of 1e-6, that the authors take."""
    high, low, least = ratio + Fraction(2, 5), Fraction(3, 5), Fraction(1, 10**6)
    # (x + n) y = m goes through (least, high) and (1, low)
    n = (low - high * least) / (high - low)
    wanted = min(max(low * (1 + n) / (max(x, least) + n), Fraction(1)), ratio)
    assert low_value(float(x), float(ratio)) == pytest.approx(float(wanted), rel=1e-9)


def test_shallow_depths_come_more_often_and_each_as_often_as_its_part_of_the_hyperbola() -> None:
    method, draws = Apollo(), 4000
    drawn = Counter(method.drawn(3, 12, step) for step in range(draws))
    marks = [step / 100_000 for step in range(100_000)]
    parts = Counter(int(low_value(mark, 4.0) * 3) for mark in marks)
    assert set(parts) == set(drawn) == set(range(3, 13))
    assert [depth for depth, _ in parts.most_common(4)] == [3, 4, 5, 6]
    for depth, count in parts.items():
        assert drawn[depth] / draws == pytest.approx(count / len(marks), abs=0.03)
    even = Counter(Apollo(sampling="even").drawn(3, 12, step) for step in range(draws))
    assert set(even) == set(range(3, 13)) and min(even.values()) > 0.08 * draws
    depth = method.drawn(3, 12, 0)
    assert method.depth(12, 0, 20) == Depth(tuple(layer * 3 // depth for layer in range(depth)), (1.0,) * depth)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (
            {"stages": stages((2, 0.5), (2, 0.6))},
            "stages: each must have more layers than the one before, and end later",
        ),
        (
            {"stages": stages((2, 0.5), (3, 0.5))},
            "stages: each must have more layers than the one before, and end later",
        ),
        ({"stages": stages((2, 0.5), (3, 0.6)), "ramp": 0.2}, "ramp, alone: no longer than a stage"),
        (
            {"stages": stages((2, 0.9)), "alone": 0.1},
            "ramp, alone: no longer than a stage, and over before the run's end",
        ),
        ({"ramp": 0.3}, "ramp, alone: no longer than a stage"),
    ],
)
def test_stages_that_cannot_be_are_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Staged.model_validate({"name": "staged", **given_})


SHAPE = ModelConfig(layers=4)
WINDOWS = ModelConfig.model_validate({"layers": 4, "pattern": [{"mixer": {"name": "sliding_window", "window": 8}}, {}]})


@pytest.mark.parametrize(
    ("method", "shape", "said"),
    [
        (Staged(), ModelConfig(layers=1), "pretrain.growth: a model of one layer has nothing to begin with: use whole"),
        (
            Apollo.model_validate({"stages": stages((4, 0.5))}),
            SHAPE,
            "pretrain.growth.stages: 4 layers, and the whole model has 4: give fewer",
        ),
        (Staged(), WINDOWS, "pretrain.growth: layer 1 would begin as layer 0, whose mixer"),
        (Apollo(), WINDOWS, "pretrain.growth: layer 1 would begin as layer 0, whose mixer"),
        (
            Apollo.model_validate({"stages": stages((2, 0.5)), "place": "on_top"}),
            WINDOWS,
            "pretrain.growth: layers take each other's place, and those of the pattern differ: use staged",
        ),
    ],
)
def test_models_that_cannot_grow_are_refused_in_a_line(method: Any, shape: ModelConfig, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        method.check(shape)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_pattern_that_stages_divide_can_grow() -> None:
    Staged.model_validate({"stages": stages((2, 0.5))}).check(WINDOWS)
    Staged(new_layers="random").check(WINDOWS)
    with pytest.raises(ConfigError, match="layer 1 would begin as layer 0"):
        Staged.model_validate({"stages": stages((2, 0.5)), "place": "between"}).check(WINDOWS)


def params(*words: str) -> dict[str, Any]:
    return compose(ROOT, "smoke", ["tokenize.method={name: bpe, vocab_size: 300}", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["pretrain.start={name: stacked}"],
            "growth: a model that grows begins with random weights: set start to random",
        ),
        (
            ["pretrain.lookahead={share: 0.6}"],
            "growth: layers move, where movements of before mean nothing: set fast_forward",
        ),
        (["pretrain.fast_forward={every: 6}"], "growth: layers move, where movements of before mean nothing"),
    ],
)
def test_sections_that_do_not_go_together_are_refused_when_they_are_read(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("pretrain", PretrainConfig, params("pretrain.growth={name: staged}", *words))
    load("pretrain", PretrainConfig, params(*words))


def work_of(*words: str) -> Work:
    return works_of(params(*words), ["pretrain"])["pretrain"]


def test_the_forecast_counts_the_layers_that_take_part() -> None:
    growth = "pretrain.growth={name: staged, stages: [{layers: 1, until: 0.25}, {layers: 2, until: 0.5}]}"
    found = {
        words: rehearse(work.step, work.recipe, work.steps, 10**9, False)
        for words in ("", growth)
        if (work := work_of("pretrain.model.layers=4", "curriculum.tokens=40960", *filter(None, [words])))
    }
    shape = work.shape
    each = {
        n: flops_per_token(toy_model(**{**shape.model_dump(), "layers": n}), work.step().batch.length)
        for n in (1, 2, 4)
    }
    assert work.steps % 4 == 0
    assert found[""].flops == pytest.approx(each[4])
    assert found[growth].flops == pytest.approx((each[1] + each[2] + 2 * each[4]) / 4)
    assert found[growth].step_bytes >= found[""].step_bytes and found[growth].state_bytes == found[""].state_bytes


def test_what_training_refuses_the_forecast_refuses_in_its_words() -> None:
    growth = "pretrain.growth={name: apollo}"
    for words, said in (
        ("pretrain.linear={name: lora}", "params.yaml: pretrain.growth: matrices must be dense, not lora"),
        ("pretrain.objective={name: multi_token}", "params.yaml: pretrain.growth: the objective's heads stand on the"),
    ):
        work = work_of(growth, words)
        with pytest.raises(ConfigError) as caught, told_of("pretrain", work):
            rehearse(work.step, work.recipe, work.steps, 10**9, False)
        assert str(caught.value).startswith(said)


def test_preflight_says_what_does_not_fit_and_its_toy_run_has_stages_of_its_own() -> None:
    given_ = params(
        "pretrain.growth={name: staged, stages: [{layers: 6, until: 0.5}], ramp: 0.1}", "pretrain.model.layers=6"
    )
    (finding,) = grows(Sections(given_))
    assert str(finding).startswith(
        "params.yaml: pretrain.growth.stages: 6 layers, and the whole model has 6: give fewer"
    )
    fits = params(
        "pretrain.growth={name: staged, stages: [{layers: 3, until: 0.5}], ramp: 0.1}", "pretrain.model.layers=6"
    )
    assert list(grows(Sections(fits))) == [] == list(grows(Sections(params())))
    ramped = Sections(params("pretrain.growth={name: staged}", "curriculum.ramp={doublings: 1}"))
    (finding,) = grows(ramped)
    assert str(finding).startswith("params.yaml: pretrain.growth: staged counts FLOP by steps of as many tokens each")
    assert list(grows(Sections(params("curriculum.ramp={doublings: 1}")))) == []
    small = toy(fits, Path())
    assert small["growth"] == {**fits["pretrain"]["growth"], "stages": []}
    made = load("pretrain", PretrainConfig, {**fits, "pretrain": {**fits["pretrain"], **small}})
    made.growth.check(made.model)


def test_the_stage_grows_and_samples_on_its_way(tiny: Tiny, tmp_path: Path) -> None:
    shape = {"width": 32, "heads": 2, "kv_heads": 1, "ffn_width": 64, "context": 64}
    plain = {"optimizer": {"name": "adamw"}, "samples_every": 10}
    grown = {name: {**plain, "growth": {"name": name}} for name in ("staged", "apollo", "v_cycle")}
    folders = {
        name: stage_of(tiny, tmp_path / name, {"model": {**shape, "layers": 4}, **changes})
        for name, changes in {"whole": plain, **grown}.items()
    }
    models = {name: load_model(folder)[0] for name, folder in folders.items()}
    weights = {name: model.blocks[3].ffn.up.weight for name, model in models.items()}
    assert all(model.config == models["whole"].config for model in models.values())
    assert len({weight.detach().numpy().tobytes() for weight in weights.values()}) == 4
    for name in grown:
        losses = curve(folders[name], "loss")
        assert losses[-1] < losses[0] and (folders[name] / "samples.jsonl").exists()


def test_trunks_see_how_deep_a_step_is(tmp_path: Path, checkpoint: Path) -> None:  # noqa: F811
    """Runs of two lengths part where one of them has grown, and a model that does not grow has the trunks that it had."""
    data = data_of(tmp_path / "data", tokenizers.Bytes(), checkpoint)

    class Told(Losses):
        def trunks(self, *what: Any) -> Any:
            self.steps, self.seen = what[1], what[4]

    def told(growth: Any) -> Told:
        made = config(checkpoint, starts.Random(), layers=4, context=64).model_copy(update={"growth": growth})
        pretrain(made, data, log := Told())
        return log

    ours = [told(growth) for growth in (growths.Whole(), Staged(), Staged(place="between"))]
    assert ours[0].steps >= 1 and len(ours[0].seen(0)) == 3
    digests = [[digest_of(*log.seen(step)) for step in range(log.steps)] for log in ours]
    assert digests[0][0] != digests[1][0] and digests[1] != digests[2]
