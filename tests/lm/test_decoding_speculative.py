"""Speculative decoding: greedy answers to the last token, whatever the draft; and what may keep two passes from agreeing."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.model import Cache, Decoder
from lm.quantized.inputs import Rounding, round_inputs_of
from lm.sampler import ROWS
from lm.strategies import Greedy, Speculative
from lm.strategies import speculative as room
from lm.strategies.speculative import _Row, nearly_equal
from tests.lm.strategies import CONTEXT, PROMPTS, asked, lively, saved


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield


def drafts(model: Decoder, name: str) -> None:
    if not Path("data/assistants", name).exists():
        saved(name, model)


def noisy(model: Decoder, share: float) -> Decoder:
    """A model that agrees with this one most of the time."""
    other = lively(1, layers=len(model.blocks))
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(share * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator))
    return other


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 30), st.sampled_from([0.0, 0.1, 10.0]), st.integers(1, 6))
def test_answers_are_the_greedy_ones(seed: int, share: float, ahead: int) -> None:
    model = lively(seed)
    drafts(noisy(model, share), f"{seed}_{share}")
    found = Speculative(draft=f"{seed}_{share}", ahead=ahead)(model, asked())
    assert [f.ids for f in found] == [f.ids for f in Greedy()(model, asked())]


def test_a_draft_that_agrees_saves_passes_and_one_that_does_not_costs_none() -> None:
    model, prompts = lively(1), [[5, place] for place in range(20)]
    greedy = Greedy()(model, asked(prompts))
    for name, draft in {"itself": model, "near": noisy(model, 0.1), "other": lively(9)}.items():
        drafts(draft, name)
    itself, near, other = (
        Speculative(draft=name, ahead=4)(model, asked(prompts)) for name in ("itself", "near", "other")
    )
    for plain, found in zip(greedy, itself, strict=True):
        # a pass takes 4 that were proposed and one more
        assert found.passes == -(-len(plain.ids) // 5) and found.tokens == 5 * found.passes
    passes = [sum(f.passes for f in every) for every in (greedy, other, near, itself)]
    assert passes[0] >= passes[1] > passes[2] > passes[3]


def test_equals_are_settled_by_the_one_token_pass() -> None:
    """Each token has a twin of the same logit: all answers are unsure at once, and are those of greedy, lowest id first."""
    model = lively(2)
    with torch.no_grad():
        model.head.weight[1::2] = model.head.weight[::2][: len(model.head.weight[1::2])]
    drafts(model, "twins")
    greedy, found = Greedy()(model, asked()), Speculative(draft="twins")(model, asked())
    assert [f.ids for f in found] == [f.ids for f in greedy]
    assert all(f.tokens == g.tokens + 5 for f, g, p in zip(found, greedy, PROMPTS, strict=True) if len(p) < 80)


def test_prompts_without_room_for_proposals_are_written_plainly() -> None:
    model = lively(3)
    drafts(model, "roomless")
    prompts = [[5], [7] * 81, [7] * 82, [7] * 95]
    greedy, found = Greedy()(model, asked(prompts)), Speculative(draft="roomless")(model, asked(prompts))
    # of 96 places 10 are the answer's and 5 a pass's
    assert [f == g for f, g in zip(found, greedy, strict=True)] == [True, False, True, True]
    assert [f.ids for f in found] == [g.ids for g in greedy]


def test_a_layer_that_forgets_cannot_take_back() -> None:
    window = {"name": "sliding_window", "window": 8}
    model = lively(1, mixer=window)
    drafts(lively(1), "whole")
    with pytest.raises(ConfigError, match=r"speculative: a layer of this model forgets tokens"):
        Speculative(draft="whole")(model, asked())
    wide = lively(1, mixer={**window, "window": CONTEXT})
    assert [f.ids for f in Speculative(draft="whole")(wide, asked())] == [f.ids for f in Greedy()(wide, asked())]


def test_a_model_that_computes_in_whole_numbers_is_refused_for_that() -> None:
    """Not for what it does not do, forgetting; and a draft may, since the model decides."""
    drafts(lively(1), "exact")
    cached, rounding = lively(1), lively(1)
    cached.cache_rounding = Rounding(8, 0)
    round_inputs_of(rounding, Rounding(8, 0), {})
    for slot, model in (("cache", cached), ("activation", rounding)):
        with pytest.raises(ConfigError, match=rf"speculative: the model computes in whole numbers \(quantize.{slot}\)"):
            Speculative(draft="exact")(model, asked())


def test_a_draft_that_keeps_whole_numbers_takes_proposals_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, draft = lively(1), noisy(lively(1), 0.1)
    draft.cache_rounding = Rounding(8, 0)
    monkeypatch.setattr(room, "assistant", lambda *given: draft)
    found = Speculative(draft="whole_numbers")(model, asked())
    assert [f.ids for f in found] == [f.ids for f in Greedy()(model, asked())]


def test_what_is_taken_by_hand() -> None:
    row = _Row([1])
    row.take(7, False, 3, 9)
    row.take(8, False, 3, 9)
    assert (row.ids, row.done, row.unsure) == ([7, 8], False, False)
    row.take(9, False, 3, 9)
    assert row.ids == [7, 8, 9] and row.done and not row.unsure
    full = _Row([1], [1, 2])
    full.take(3, False, 3, 9)
    assert full.done
    unsure = _Row([1], [1])
    unsure.take(2, True, 3, 9)
    assert (unsure.ids, unsure.done, unsure.unsure) == ([1], True, True)


def test_nearly_equal_by_hand() -> None:
    # |x| = 5, the longest row of the head 2: the bound is 64 x 2^-23 x 10 = 7.63e-5
    x, head = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    for gap, close in ((0.0, True), (7.5e-5, True), (7.8e-5, False)):
        assert nearly_equal(x, head, torch.tensor([[[gap, 0.0]]])).item() is close


@pytest.mark.parametrize(("width", "layers"), [(160, 6), (384, 8)])
def test_passes_differ_by_less_than_a_sixteenth_of_what_counts_as_equal(width: int, layers: int) -> None:
    """Logits of one pass over five tokens, beside one pass for each in as many rows as the sampler has, whose keys are their
    own. Of the wider model some differ, by 2 units."""
    model = lively(1, 3.0, width=width, layers=layers, heads=width // 32, kv_heads=1, ffn_width=3 * width)
    ids_RT = torch.randint(0, 261, (ROWS, 25), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        few, many = Cache(model.config, room.ROWS, 64), Cache(model.config, ROWS, 64)
        model.hidden(ids_RT[: room.ROWS, :20], few)
        model.hidden(ids_RT[:, :20], many)
        at_once = model.hidden(ids_RT[: room.ROWS, 20:], few)
        alone = torch.cat([model.hidden(ids_RT[:, t : t + 1], many) for t in range(20, 25)], 1)[: room.ROWS]
        one, other = (F.linear(x, model.head_weight) for x in (at_once, alone))
        reach = at_once.norm(dim=-1) * model.head_weight.norm(dim=1).max()
    apart = ((one - other).abs().amax(-1) / reach).max().item() / torch.finfo(torch.float32).eps
    assert apart < room.UNITS / 16
