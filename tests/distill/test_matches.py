"""Matches of the inside of both models: distances by hand, what gets a gradient, and their end, through a kill too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.checkpoint import load_model
from lm.config import ConfigError, methods_of
from lm.mixers import SlidingWindow
from lm.model import Decoder
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.distill import matches
from tasks.distill.contracts import contracts
from tasks.distill.divergences import ForwardKl
from tasks.distill.matches import Features, Holistic, Unmatched
from tasks.distill.matches.base import Matching, layer_at
from tasks.distill.matches.holistic import attention_apart
from tasks.distill.matches.layer_pass import capture_layer
from tasks.distill.needs import needs
from tasks.distill.stage import run
from tasks.distill.step import ComparedRows, WeightedMatch, shares_of
from tasks.distill.students import Fresh
from tasks.distill.teachers import Stored
from tests.distill.test_run import Heard
from tests.distill.test_stage import config, prepared, trained
from tests.distill.test_teachers import Interrupted, sections
from tests.lessons.test_stage import stored
from tests.lm.models import toy_model
from tests.project import digest

LASTING = [method for method in methods_of(matches) if method is not Unmatched]
EVERY = pytest.mark.parametrize("method", LASTING, ids=lambda method: method.__name__)
IDS = torch.randint(4, 200, (2, 9), generator=torch.Generator().manual_seed(0))
PLACES = torch.tensor([1, 4, 12])


def pair() -> tuple[Decoder, Decoder]:
    """A student and its teacher of other width, depth and heads."""
    teacher = toy_model(seed=2, layers=4)
    with torch.no_grad():
        for weight in teacher.blocks.parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    return toy_model(seed=1, width=24, heads=2, kv_heads=1), teacher.requires_grad_(False)


def opened(match: Any) -> tuple[Decoder, Decoder, Matching]:
    student, teacher = pair()
    made = match.open(student, teacher, 0)
    assert made is not None
    return student, teacher, made


def compared() -> ComparedRows:
    return ComparedRows(IDS[:, :-1], PLACES, IDS[:, 1:].flatten()[PLACES], 3)


def stream(model: Decoder, layer: int) -> Tensor:
    """x_KD behind a layer at PLACES, by a hook."""
    seen: list[Tensor] = []
    hook = model.blocks[layer].register_forward_hook(lambda _, inputs, made: seen.append(made[0]))
    model(IDS[:, :-1])
    hook.remove()
    return seen[0].flatten(0, 1)[PLACES]


@pytest.mark.parametrize(
    ("depth", "layers", "wanted"), [(0.5, 4, 1), (1.0, 4, 3), (0.1, 4, 0), (0.5, 1, 0), (0.3, 10, 2)]
)
def test_the_layer_at_a_depth(depth: float, layers: int, wanted: int) -> None:
    assert layer_at(depth, layers) == wanted


@pytest.mark.parametrize("kind", ["squares", "cosine"])
def test_features_by_hand(kind: Any) -> None:
    """FitNets' hint: half of the squared difference, a mean over channels here; and the divergence beside it."""
    student, teacher, made = opened(Features(distance=kind, weight=0.7, teacher_depth=1.0))
    total, found = shares_of(student, [teacher], ForwardKl(), 0.0, compared(), WeightedMatch(made, made.weight(0)))
    plain, _ = shares_of(student, [teacher], ForwardKl(), 0.0, compared())
    mine_KE = stream(student, 0) @ student.heads.weight.T
    theirs_KE = stream(teacher, 3)
    apart_K = (
        0.5 * (mine_KE - theirs_KE).square().mean(1)
        if kind == "squares"
        else 1 - F.cosine_similarity(mine_KE, theirs_KE)
    )
    assert found["match"].item() == pytest.approx(apart_K.mean().item(), rel=1e-5)
    assert total.item() == pytest.approx(plain.item() + 0.7 * apart_K.mean().item(), rel=1e-5)


def test_attention_by_hand() -> None:
    """The mean of both heads' softmax over what a place may see, one place at a time."""
    student, teacher, made = opened(Holistic(attention=2.0, student_depth=1.0, teacher_depth=0.25))
    maps = []
    for model, layer in ((student, 1), (teacher, 0)):
        with torch.no_grad(), capture_layer(model, layer) as seen:
            model(IDS[:, :-1])
        block, x = model.blocks[layer], seen[0].entered_BTD
        part, rows = block.attention, []
        for row, at in ((0, 1), (0, 4), (1, 4)):
            normed = block.attention_norm(x, None)[1][row : row + 1]
            q = part.query_norm(
                part.query(normed).view(1, 8, part.heads, -1), seen[0].context.cos, seen[0].context.sin
            )[0]
            k = part.key_norm(part.key(normed).view(1, 8, part.kv_heads, -1), seen[0].context.cos, seen[0].context.sin)[
                0
            ]
            group = part.heads // part.kv_heads
            heads = [q[h, at] @ k[h // group, : at + 1].T / math.sqrt(q.shape[-1]) for h in range(part.heads)]
            rows.append(F.pad(torch.stack([each.softmax(-1) for each in heads]).mean(0), (0, 7 - at)))
        maps.append(torch.stack(rows))
        torch.testing.assert_close(seen[0].attention(PLACES), maps[-1])
    kl_K = torch.stack([(t[t > 0] * (t[t > 0] / s[t > 0]).log()).sum() for s, t in zip(*maps, strict=True)])
    torch.testing.assert_close(attention_apart(*maps), kl_K)
    assert kl_K.min() > 0
    cosine_K = 1 - F.cosine_similarity(stream(student, 1) @ student.heads.weight.T, stream(teacher, 0))
    _, found = shares_of(student, [teacher], ForwardKl(), 0.0, compared(), WeightedMatch(made, 1.0))
    assert found["match"].item() == pytest.approx((cosine_K + 2 * kl_K).mean().item(), rel=1e-4)


@EVERY
def test_layers_above_the_guided_one_learn_nothing_of_a_match_alone(method: Any) -> None:
    student, teacher, made = opened(method(alone=True))
    total, found = shares_of(student, [teacher], ForwardKl(), 0.5, compared(), WeightedMatch(made, made.weight(0)))
    assert found.keys() == {"match"}
    total.backward()
    below, above = student.blocks
    assert below.ffn.down.weight.grad.norm() > 0 and student.heads.weight.grad.norm() > 0
    assert all(weight.grad is None for weight in above.parameters())


@EVERY
def test_an_ended_match_reads_nothing_and_adds_nothing(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, made = opened(method(until=5, fade=True, weight=2.0))
    assert [made.weight(step) for step in (0, 1, 4, 5, 100)] == pytest.approx([2.0, 1.6, 0.4, 0, 0])
    monkeypatch.setattr(Matching, "capture", None)
    ended = shares_of(student, [teacher], ForwardKl(), 0.5, compared(), WeightedMatch(made, made.weight(5)))
    plain = shares_of(student, [teacher], ForwardKl(), 0.5, compared())
    assert torch.equal(ended[0], plain[0]) and ended[1].keys() == plain[1].keys()
    ended[0].backward()
    assert not student.heads.weight.grad.any()
    assert method(until=0).open(*pair(), 0).weight(10**6) == 1.0


@EVERY
def test_the_seed_decides_the_projection(method: Any) -> None:
    first, second = (method().open(*pair(), seed)._projection for seed in (0, 1))
    assert not torch.equal(first, second) and torch.equal(first, opened(method())[2]._projection)
    torch.testing.assert_close(first.T @ first, torch.eye(24), rtol=0, atol=1e-5)  # of 24 channels in 32


@EVERY
def test_labels_alone_still_match(method: Any) -> None:
    student, teacher, made = opened(method())
    total, found = shares_of(student, [teacher], ForwardKl(), 1.0, compared(), WeightedMatch(made, 1.0))
    assert found.keys() == {"nll", "match"} and total.item() == pytest.approx((found["nll"] + found["match"]).item())


@pytest.mark.parametrize("way", ["plain", "recomputed", "in parts"])
def test_gradients_disagree_where_their_product_is_below_0(way: str) -> None:
    """By the stream that enters the guided layer, each gradient by a backward of its own."""
    student, teacher, made = opened(Features(weight=0.3, patience=2, student_depth=1.0))
    student.recompute = way == "recomputed"
    student.train()
    total, _ = shares_of(student, [teacher], ForwardKl(), 0.5, compared(), WeightedMatch(made, 0.3))
    if way == "in parts":
        for places in (PLACES[:2], PLACES[2:]):
            part = ComparedRows(IDS[:, :-1], places, IDS[:, 1:].flatten()[places], 3)
            shares_of(student, [teacher], ForwardKl(), 0.5, part, WeightedMatch(made, 0.3))[0].backward()
    else:
        total.backward()
    other, its, twin = opened(Features(weight=0.3, student_depth=1.0))
    # the same pass, whose two losses are told apart
    gradients = []
    for weight in (0.3, 0.0):
        with capture_layer(other, 1) as seen:
            found, parts = shares_of(other, [its], ForwardKl(), 0.5, compared(), WeightedMatch(twin, 0.3))
        wanted = 0.3 * parts["match"] if weight else found - 0.3 * parts["match"]
        gradients.append(torch.autograd.grad(wanted, seen[0].entered_BTD)[0])
    own, rest = gradients
    by_hand = torch.stack([(own * rest).sum(), own.square().sum(), rest.square().sum()])
    torch.testing.assert_close(made.sums, by_hand, rtol=1e-3, atol=1e-8)
    assert (by_hand.abs() > 0).all()


def test_a_match_ends_when_it_was_against_the_rest_for_so_long() -> None:
    _, _, made = opened(Features(patience=2))
    for product, weight in ((-1.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (-0.5, 0.0), (1.0, 0.0)):
        made.update_patience(torch.tensor([product, 1.0, 1.0], dtype=torch.float64))
        assert made.weight(3) == weight
    _, _, again = opened(Features(patience=2))
    again.load(made.state())
    assert again.weight(3) == 0
    never = opened(Features())[2]
    never.update_patience(torch.tensor([-1.0, 1.0, 1.0]))
    assert not never.needs_gradient_sums


class Broken(Interrupted):
    """Asked to stop after every step."""


@pytest.mark.parametrize(
    "match",
    [Features(until=3), Features(alone=True, until=2), Holistic(patience=1, until=0), Features(fade=True)],
    ids=repr,
)
def test_it_is_the_same_after_a_kill(tmp_path: Path, match: Any) -> None:
    given = config(match=match, student=Fresh(layers=2, width=24, heads=2), steps=5)
    whole = trained(tmp_path / "whole", given)
    folder = prepared(tmp_path / "killed")
    (tmp_path / "scratch").mkdir()
    log = Broken(tmp_path / "scratch")
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, folder, log)
    log.stopping = False
    run(given, folder, log)
    assert digest(folder / "distill") == whole
    model, _ = load_model(folder / "distill")
    assert not any(name.startswith("heads") for name in model.state_dict())


def test_a_match_comes_nearer_and_is_told_until_it_ends(tmp_path: Path) -> None:
    log = Heard()
    given = config(match=Features(until=6, distance="cosine"), student=Fresh(layers=2, width=24, heads=2), steps=8)
    run(given, prepared(tmp_path), log)
    assert all("text_match" in told for told in log.told[:6]) and not any("text_match" in told for told in log.told[6:])
    assert log.told[5]["text_match"] < 0.95 * log.told[0]["text_match"]


def test_compiled_blocks_are_watched_as_others_are() -> None:
    student, teacher, made = opened(Features())
    plain, _ = shares_of(student, [teacher], ForwardKl(), 0.0, compared(), WeightedMatch(made, 1.0))
    student._run = torch.compile(type(student.blocks[0]).__call__, backend="eager")
    found, _ = shares_of(student, [teacher], ForwardKl(), 0.0, compared(), WeightedMatch(made, 1.0))
    torch.testing.assert_close(found, plain)


def test_what_cannot_be_matched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, _ = pair()
    odd = toy_model(mixer=SlidingWindow(window=4))
    with pytest.raises(
        ConfigError, match=r"distill.match: holistic: the teacher's mixer is sliding_window, which has no map"
    ):
        Holistic().open(student, odd, 0)
    with pytest.raises(
        ConfigError, match=r"distill.match.patience: a match that is all of the loss is against nothing"
    ):
        Features(patience=1, alone=True).open(student, odd, 0)
    monkeypatch.setattr("tasks.distill.matches.base.world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"distill.match.patience: ranks see a part of a gradient each"):
        Features(patience=1).open(student, odd, 0)


def test_targets_that_are_stored_know_nothing_of_a_layer(tmp_path: Path) -> None:
    asked = {
        "teachers": {"name": "stored"},
        "match": {"name": "features"},
        "divergence": {"name": "forward_kl", "top_k": 4},
    }
    assert [found.where for found in contracts(sections(asked))] == ["params.yaml: distill.match"]
    data, _ = stored(tmp_path)
    given = config(match=Features(), divergence=ForwardKl(top_k=4), teachers=Stored(), beside="lessons")
    with pytest.raises(ConfigError, match=r"distill.match: stored targets know nothing of the teacher's inside"):
        run(given, data, Log())


def test_the_forecast_has_the_projection() -> None:
    plain, matched = (
        needs(sections({"student": {"name": "fresh", "layers": 1}, "match": {"name": name}})).work
        for name in ("unmatched", "features")
    )
    assert plain and matched
    width = matched.shape.width
    assert matched.step().model.num_parameters() == plain.step().model.num_parameters() + width**2


def test_the_default_makes_no_pass_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained(tmp_path / "a", config())
    monkeypatch.setattr("tasks.distill.matches.layer_pass.capture_layer", None)
    assert trained(tmp_path / "b", config(match=Unmatched())) == plain
    run(config(), prepared(tmp_path / "c"), Log())
